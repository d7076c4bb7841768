"""One process of a test: it makes the updates that the test asks for and writes down their numbers.

worker.py BACKEND RANK SIZE PORT FOLDER [short|long]
"""

import os
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from hermes.chat_templates.example import Example
from hermes.data import Cursor, TextDataset, TokenStream
from hermes.data.example_dataset import ExampleDataset
from hermes.distributed.process_group import SINGLE_PROCESS, RankInfo, exit_without_teardown
from hermes.interface import Options, TrainState, find_backend
from hermes.numerics.params import init_weights
from hermes.recipe import Lora, LossScaling, OptimizerRecipe, Recipe
from hermes.spec import AttentionSpec, BlockSpec, EmbeddingsSpec, FfnSpec, ModelSpec

VOCABULARY, ROWS = 37, 8
UPDATES = (8, 8, 5)  # samples of each; the last one leaves rows, and whole processes, empty
EXACT = Options(device="cpu", precision="float64")
FLOAT32 = Options(device="cpu")


def spec(dropout=0.1):
    block = BlockSpec(AttentionSpec(4, 2, dropout=dropout), FfnSpec(hidden_dim=24), dropout=dropout)
    return ModelSpec(
        blocks=(block,),
        vocab_size=VOCABULARY,
        max_seq_len=32,
        hidden_size=16,
        num_layers=2,
        embeddings=EmbeddingsSpec(tie_weights=True),
    )


def text():
    ids = np.random.default_rng(1).integers(0, VOCABULARY, 400)
    return TextDataset(TokenStream.from_ids(ids), seq_len=12, vocab_size=VOCABULARY, seed=3)


def examples(pack):
    """Rows of uneven length with one to three counted tokens."""
    draw = np.random.default_rng(2)
    found = []
    for number in range(60):
        ids = draw.integers(0, VOCABULARY, draw.integers(5, 31)).astype(np.int32)
        learnt = np.arange(len(ids)) >= len(ids) - 1 - number % 3
        found.append(Example(ids, learnt, str(number)))
    return ExampleDataset(found, seq_len=32, vocab_size=VOCABULARY, pack=pack, seed=3)


PLAIN = Recipe()


@dataclass(frozen=True)
class Case:
    """Updates to make. updates: the samples of each; data: makes what they are drawn from."""

    data: Callable
    recipe: Recipe = PLAIN
    options: Options = EXACT
    updates: tuple[int, ...] = UPDATES
    lr: float = 1e-2


CLIPPED, FROZEN = Recipe(grad_clip=0.05), Recipe(freeze_layers=1)
LORA = Recipe(lora=Lora(rank=2, dropout=0.1))
ROWS_TOO = Recipe(lora=Lora(rank=2, dora=True, token_ids=(3, 20, 36)))
FULL, OPTIMIZER = replace(EXACT, shard="full"), replace(EXACT, shard="optimizer")
MUON = Recipe(optimizer=OptimizerRecipe("muon"))
NORMUON = Recipe(optimizer=OptimizerRecipe("normuon"), ema=0.8)
ADAFACTOR = Recipe(optimizer=OptimizerRecipe("adafactor"))
SHORT = Recipe(optimizer=OptimizerRecipe(moments="float8"))
SHORT_MUON = Recipe(optimizer=OptimizerRecipe("muon", moments="float8"))
RANDOM = Recipe(optimizer=OptimizerRecipe(moments="bfloat16-stochastic"))
LION = Recipe(optimizer=OptimizerRecipe("lion"), lr=1e-3)
HALF = Options(device="cpu", precision="bfloat16")
# The first update overflows everywhere, the second only in the processes that have samples.
SCALED = Recipe(loss_scaling=LossScaling(2.0**40, backoff=2.0**-12, interval=1))
FLOAT16 = Options(device="cpu", precision="float16")
OVERFLOWING, OVERFLOW = (8, 3, 8, 5), -1.0

WHOLE = {
    "text-float64": Case(text),
    "text-float32": Case(text, options=FLOAT32),
    "rows-float64": Case(lambda: examples(False)),
    "packed-float64": Case(lambda: examples(True), CLIPPED),
    "frozen-float64": Case(text, FROZEN),
    "lora-float64": Case(text, LORA),
    "lora-rows-float64": Case(text, ROWS_TOO),
    "lora-bfloat16": Case(text, LORA, HALF),
    "recomputed-float64": Case(text, options=replace(EXACT, grad_checkpoint=True)),
    "scaled-float16": Case(text, SCALED, FLOAT16, OVERFLOWING),
}
SPLIT = {
    "full-float64": Case(lambda: examples(True), CLIPPED, FULL),
    "full-float32": Case(text, options=replace(FLOAT32, shard="full")),
    "full-bfloat16": Case(text, options=replace(HALF, shard="full")),
    "full-frozen-float64": Case(text, FROZEN, FULL),
    "full-lora-float64": Case(text, LORA, FULL),
    "full-lora-rows-float64": Case(text, ROWS_TOO, FULL),
    "full-lora-bfloat16": Case(text, LORA, replace(HALF, shard="full")),
    "optimizer-frozen-bfloat16": Case(text, FROZEN, replace(HALF, shard="optimizer")),
    "full-recomputed-float64": Case(text, options=replace(FULL, grad_checkpoint=True)),
    "full-normuon-float64": Case(text, NORMUON, FULL),
    "full-adafactor-float64": Case(text, ADAFACTOR, FULL),
    "full-short-muon-float64": Case(text, SHORT_MUON, FULL),
    "full-random-float64": Case(text, RANDOM, FULL),
    "full-short-float64": Case(text, SHORT, FULL),
    "optimizer-lion-float64": Case(text, LION, OPTIMIZER),
    "optimizer-float64": Case(text, CLIPPED, OPTIMIZER),
    "optimizer-bfloat16": Case(text, options=replace(HALF, shard="optimizer")),
    "full-scaled-float16": Case(text, SCALED, replace(FLOAT16, shard="full"), OVERFLOWING),
    "optimizer-scaled-float16": Case(
        text, SCALED, replace(FLOAT16, shard="optimizer"), OVERFLOWING
    ),
    "optimizer-recomputed-float64": Case(text, options=replace(OPTIMIZER, grad_checkpoint=True)),
}
IN_GROUPS = {
    "full-groups-float64": Case(text, options=replace(FULL, shard_group=2)),
    "full-groups-muon-float64": Case(text, MUON, replace(FULL, shard_group=2)),
    "optimizer-groups-float64": Case(text, CLIPPED, replace(OPTIMIZER, shard_group=2)),
}
COMPILED = {
    "compiled-float64": Case(text, options=replace(EXACT, compile=True)),
    "full-compiled-float64": Case(text, options=replace(FULL, compile=True)),
    "optimizer-compiled-float64": Case(
        text, options=replace(OPTIMIZER, compile=True, grad_checkpoint=True)
    ),
}
# Fifty updates, of which some leave rows and whole processes empty, and rows that count little.
FIFTY = (*[8] * 24, 5, *[8] * 24, 1)
LONG = {
    f"fifty-{kind}{name}-float32": Case(data, PLAIN, replace(FLOAT32, shard=shard), FIFTY, 1e-3)
    for kind, shard in (("", None), ("full-", "full"), ("optimizer-", "optimizer"))
    for name, data in (("text", text), ("rows", lambda: examples(False)))
}


def cases(backend, size, group="short"):
    """What so many processes of this backend can do."""
    if group == "long":
        return {n: c for n, c in LONG.items() if backend == "torch" or not c.options.shard}
    if group == "compiled":
        return COMPILED
    split = SPLIT if backend == "torch" else {}
    return WHOLE | split | (IN_GROUPS if split and size >= 4 else {})


def start(recipe):
    weights = init_weights(spec(), 0)
    hot = {name: w * 10 if w.ndim > 1 else w for name, w in weights.items()}
    if recipe.lora is not None:
        from hermes.numerics.lora import init_adapters

        hot |= init_adapters(spec(), recipe.lora, 0, weights)
    return TrainState(hot, {}, {}, 0, can_reread=True)


def numbers(backend, case, process_group=SINGLE_PROCESS, accum=None):
    """Losses, norms and weights after the case's updates, by name."""
    data, recipe, options, size = (
        case.data(),
        case.recipe,
        case.options,
        process_group.rank_info.world_size,
    )
    if size == 1:
        options = replace(options, shard=None, shard_group=None, compile=None)
    learner = find_backend(backend).learner(spec(), start(recipe), recipe, options, process_group)
    cursor, losses, norms, scales = Cursor(), [], [], []
    for samples in case.updates:
        if recipe.ema:
            # Between two steps, which must not see the other weights.
            whole, _ = data.draw_batch(Cursor(), samples=ROWS, micro_batch=1, accum=ROWS)
            losses.append(learner.loss(whole))
            with learner.use_average():
                losses.append(learner.loss(whole))
        batch, cursor = data.draw_batch(
            cursor,
            samples=samples,
            micro_batch=1,
            accum=accum or ROWS // size,
            rank=process_group.rank_info.rank,
            world_size=size,
        )
        report = learner.step(batch, case.lr)
        losses.append(float(report.loss))
        norm = float(report.grad_norm)
        norms.append(norm if np.isfinite(norm) else OVERFLOW)
        if report.loss_scale is not None:
            scales.append(float(report.loss_scale))
    state = learner.state()
    held = {f"p/{name}": w for name, w in state.params.items()}
    held |= {
        f"{slot}/{name}": w for slot, tensors in state.slots.items() for name, w in tensors.items()
    }
    digests = learner.digests()
    digest = np.array([digests[name] for name in sorted(digests)])
    if scales:
        held["scales"] = np.array([*scales, state.loss_scale.scale, state.loss_scale.good_steps])
    return held | {"loss": np.array(losses), "norm": np.array(norms), "digest": digest}


def check_limits(process_group):
    """A peer may be silent for 20 seconds; for 60 where a batch of a new shape is compiled."""
    import torch
    import torch.distributed as dist

    def read():
        return dist.group.WORLD._get_backend(torch.device("cpu")).options._timeout.total_seconds()

    assert read() == 20
    options = replace(FLOAT32, compile=True)
    learner = find_backend("torch").learner(spec(), start(PLAIN), PLAIN, options, process_group)
    wide, _ = text().draw_batch(Cursor(), samples=1, micro_batch=1, accum=1)
    limits = []

    def observe(batch):
        limits.append(read())
        raise LookupError  # the rest of the step is left out

    learner._accumulate = observe
    for _ in range(2):
        with suppress(LookupError):
            learner.step(wide, 0.0)
    assert limits == [60, 20]
    assert read() == 20


def check_noise(backend, process_group):
    """The first norm of each process is that of its own first micro-batch, before any sum."""
    rank_info = process_group.rank_info
    made = find_backend(backend).learner
    parts = spec(), start(PLAIN), PLAIN, EXACT
    learner, alone = made(*parts, process_group), made(*parts)
    batch, _ = text().draw_batch(
        Cursor(),
        samples=4 * rank_info.world_size,
        micro_batch=2,
        accum=2,
        rank=rank_info.rank,
        world_size=rank_info.world_size,
    )
    report = learner.step(replace(batch, measures_noise=True), 1e-2)
    first = replace(
        batch, tokens=batch.tokens[:1], targets=batch.targets[:1], rows=batch.rows[:1],
        global_counts=batch.counts,
    )  # fmt: skip
    _, grads = alone.grads(first)
    expected = np.sqrt(sum(np.square(grads[name]).sum() for name in grads))
    assert np.isclose(float(report.first_norm), expected, rtol=1e-12, atol=0)
    norms = process_group.all_gather_text(f"{float(report.first_norm):.9g}")
    assert len(set(norms)) == rank_info.world_size
    assert learner.step(batch, 1e-2).first_norm is None


def trace_without_compiling():
    """Let torch.compile run the graphs that it makes of a module, which takes no C++ compiler."""
    import torch

    compile_module = torch.nn.Module.compile
    torch.nn.Module.compile = lambda self, **options: compile_module(
        self, backend="aot_eager", fullgraph=True, **options
    )


def main():
    ended = exit_without_teardown()
    backend, rank, size, port, folder, *group = sys.argv[1:]
    limits = (600, 20) if group == ["compiled"] else (60, 20)
    rank_info = RankInfo(int(rank), int(size), int(rank), int(size), f"127.0.0.1:{port}", *limits)
    if backend == "mlx":
        os.environ |= {"MLX_RANK": rank, "MLX_HOSTFILE": f"{folder}/hosts.json"}
    process_group = find_backend(backend).join(rank_info, FLOAT32)
    assert process_group.all_gather_text("é" * rank_info.rank) == [
        "é" * r for r in range(rank_info.world_size)
    ]
    assert process_group.all_reduce_sum([rank_info.rank, 1]) == [
        sum(range(rank_info.world_size)),
        rank_info.world_size,
    ]
    assert process_group.all_reduce_max(-rank_info.rank) == 0
    if group == ["compiled"]:
        trace_without_compiling()
    else:  # where tracing takes longer than the limit of later steps
        process_group.mark_first_step_done()
    if backend == "torch" and group == ["short"]:
        check_limits(process_group)
    if group == ["short"]:
        check_noise(backend, process_group)
    for name, case in cases(backend, rank_info.world_size, *group).items():
        np.savez(Path(folder) / f"{name}-{rank}.npz", **numbers(backend, case, process_group))
    process_group.close()
    ended(0)


if __name__ == "__main__":
    main()

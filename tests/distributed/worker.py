"""One process of a test: it makes the updates that the test asks for and writes down their numbers.

worker.py BACKEND RANK SIZE PORT FOLDER
"""

import os
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from hermes.data import Cursor, TextData, TokenStream
from hermes.data.chat_tokens import Example
from hermes.data.packing import ExampleData
from hermes.params import fresh_weights
from hermes.processes import ALONE, Place
from hermes.recipe import Lora, Recipe
from hermes.seam import Options, TrainState, find_backend
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
    return TextData(TokenStream.of(ids), seq_len=12, vocab_size=VOCABULARY, seed=3)


def examples(pack):
    """Rows of uneven length with one to three counted tokens."""
    draw = np.random.default_rng(2)
    found = []
    for number in range(60):
        ids = draw.integers(0, VOCABULARY, draw.integers(5, 31)).astype(np.int32)
        learnt = np.arange(len(ids)) >= len(ids) - 1 - number % 3
        found.append(Example(ids, learnt, str(number)))
    return ExampleData(found, seq_len=32, vocab_size=VOCABULARY, pack=pack, seed=3)


CASES = {
    "text-float64": (text, Recipe(), EXACT),
    "text-float32": (text, Recipe(), FLOAT32),
    "rows-float64": (lambda: examples(False), Recipe(), EXACT),
    "packed-float64": (lambda: examples(True), Recipe(grad_clip=0.05), EXACT),
    "frozen-float64": (text, Recipe(freeze_layers=1), EXACT),
    "lora-float64": (text, Recipe(lora=Lora(rank=2, dropout=0.1)), EXACT),
    "recomputed-float64": (text, Recipe(), replace(EXACT, grad_checkpoint=True)),
}
FULL, OPTIMIZER = replace(EXACT, shard="full"), replace(EXACT, shard="optimizer")
BF16 = Options(device="cpu", precision="bfloat16")
SPLIT = {
    "full-float64": (lambda: examples(True), Recipe(grad_clip=0.05), FULL),
    "full-float32": (text, Recipe(), replace(FLOAT32, shard="full")),
    "full-bfloat16": (text, Recipe(), replace(BF16, shard="full")),
    "full-frozen-float64": (text, Recipe(freeze_layers=1), FULL),
    "full-lora-float64": (text, Recipe(lora=Lora(rank=2, dropout=0.1)), FULL),
    "full-recomputed-float64": (text, Recipe(), replace(FULL, grad_checkpoint=True)),
    "optimizer-float64": (text, Recipe(grad_clip=0.05), OPTIMIZER),
    "optimizer-bfloat16": (text, Recipe(), replace(BF16, shard="optimizer")),
    "optimizer-recomputed-float64": (text, Recipe(), replace(OPTIMIZER, grad_checkpoint=True)),
}
HYBRID = {
    "full-rows-float64": (text, Recipe(), replace(FULL, shard_group=2)),
    "optimizer-rows-float64": (text, Recipe(grad_clip=0.05), replace(OPTIMIZER, shard_group=2)),
}


def cases(backend, size):
    """What so many processes of this backend can do."""
    split = SPLIT if backend == "torch" else {}
    return CASES | split | (HYBRID if split and size >= 4 else {})


def start(recipe):
    weights = fresh_weights(spec(), 0)
    hot = {name: w * 10 if w.ndim > 1 else w for name, w in weights.items()}
    if recipe.lora is not None:
        from hermes.adapters import fresh_adapters

        hot |= fresh_adapters(spec(), recipe.lora, 0)
    return TrainState(hot, {}, {}, 0)


def numbers(backend, case, processes=ALONE, accum=None):
    """Losses, norms and weights after UPDATES, by name."""
    make, recipe, options = (CASES | SPLIT | HYBRID)[case]
    data, size = make(), processes.place.size
    if size == 1:
        options = replace(options, shard=None, shard_group=None)
    learner = find_backend(backend).learner(spec(), start(recipe), recipe, options, processes)
    cursor, losses, norms = Cursor(), [], []
    for samples in UPDATES:
        batch, cursor = data.update(
            cursor,
            samples=samples,
            micro_batch=1,
            accum=accum or ROWS // size,
            rank=processes.place.rank,
            world=size,
        )
        report = learner.step(batch, 1e-2)
        losses.append(float(report.loss))
        norms.append(float(report.grad_norm))
    state = learner.state()
    held = {f"p/{name}": w for name, w in state.params.items()}
    held |= {f"v/{name}": w for name, w in state.exp_avg_sq.items()}
    digests = learner.digests()
    digest = np.array([digests[name] for name in sorted(digests)])
    return held | {"loss": np.array(losses), "norm": np.array(norms), "digest": digest}


def main():
    backend, rank, size, port, folder = sys.argv[1:]
    place = Place(int(rank), int(size), int(rank), int(size), f"127.0.0.1:{port}", 60, 20)
    if backend == "mlx":
        os.environ |= {"MLX_RANK": rank, "MLX_HOSTFILE": f"{folder}/hosts.json"}
    processes = find_backend(backend).join(place, FLOAT32)
    assert processes.texts("é" * place.rank) == ["é" * r for r in range(place.size)]
    assert processes.total([place.rank, 1]) == [sum(range(place.size)), place.size]
    assert processes.largest(-place.rank) == 0
    processes.settle()
    for case in cases(backend, place.size):
        np.savez(Path(folder) / f"{case}-{rank}.npz", **numbers(backend, case, processes))
    processes.close()


if __name__ == "__main__":
    main()

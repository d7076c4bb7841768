"""A plan's memory against the peaks of real steps."""

import dataclasses

import pytest
import torch

from hermes import mal
from hermes.errors import HermesError
from hermes.model_info import training_memory
from hermes.model_info.training_memory import (
    Placement,
    count_unfused_layers,
    find_largest_batch,
    plan_memory,
)
from hermes.numerics.params import count_parameters, list_parameters
from hermes.recipe import Lora, OptimizerRecipe, Recipe
from hermes_mlx import chunked_loss
from hermes_torch.moment_format import ShortMoment
from tests.mlx_memory import count_held_bytes, measure_peak
from tests.model_info.measuring import measure_allocated
from tests.model_info.test_activations import WHOLE, make_batch, make_learner, make_spec

WIDE = {
    "num_layers": "3",
    "hidden_size": "128",
    "vocab_size": "1200",
    "block.ffn.hidden_dim": "344",
}


def make_wide():
    return mal.edit_all(make_spec(3), WIDE)


def measure_torch(spec, B, A, recipe=WHOLE, **options):
    """Bytes at the peak of a step: those allocated in it, and weights and moments before it.

    On one thread: attention in bfloat16 has 150 kB of its own for each, of which plans say nothing.
    """
    learner, batch = make_learner("torch", spec, recipe, **options), make_batch(spec, B, A)
    kept = [x for slots in learner._optimizer.kept.values() for x in slots.values()]
    tensors = list(learner.runtime.module.parameters())
    for x in kept:
        tensors += [x.codes, x.exponents] if isinstance(x, ShortMoment) else [x]
    held = sum(x.numel() * x.element_size() for x in tensors)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return measure_allocated(lambda: learner.step(batch, 1e-4)) + held
    finally:
        torch.set_num_threads(threads)


def measure_mlx(spec, B, A, recipe=WHOLE, **options):
    before = count_held_bytes()
    learner, batch = make_learner("mlx", spec, recipe, **options), make_batch(spec, B, A)
    float(learner.step(batch, 1e-4).grad_norm)
    return measure_peak(lambda: float(learner.step(batch, 1e-4).grad_norm)) - before


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("recomputed", ["", "grad_checkpoint", "selective_checkpoint"])
@pytest.mark.parametrize(("B", "A"), [(8, 1), (2, 2)])
def test_a_plan_is_the_peak_of_a_step_on_torch(precision, recomputed, B, A):
    spec = make_wide()
    options = {"precision": precision, **({recomputed: True} if recomputed else {})}
    found = measure_torch(spec, B, A, **options)
    recipe = Recipe(batch_size=B, grad_accum=A, seq_len=36)
    plan = plan_memory(spec, recipe, Placement("torch", **options))
    assert plan.total == pytest.approx(found, rel=0.03)


SMALL = {"num_layers": "2", "hidden_size": "256", "vocab_size": "500"}
WORDS = {"hidden_size": "64", "vocab_size": "8000"}
LORA = Lora(rank=4)


@pytest.mark.parametrize(
    ("edits", "fields", "options"),
    [
        (SMALL, {"optimizer": OptimizerRecipe("muon")}, {}),
        (SMALL, {"optimizer": OptimizerRecipe("normuon", moments="bfloat16")}, {}),
        (SMALL, {"optimizer": OptimizerRecipe("lion", moments="float8")}, {}),
        (SMALL, {"ema": 0.99}, {}),
        (SMALL, {"embeddings.tie_weights": "true"}, {}),
        (SMALL, {"freeze_layers": 1}, {}),
        (SMALL, {}, {"precision": "float64"}),
        (WORDS, {"optimizer": OptimizerRecipe("adafactor")}, {}),
        (WORDS, {"optimizer": OptimizerRecipe("adamw", moments="bfloat16")}, {}),
        (WORDS, {"optimizer": OptimizerRecipe("adamw", moments="float8")}, {}),
        (WORDS, {"lora": LORA}, {}),
        (WIDE, {"lora": LORA}, {}),
        (WIDE, {"lora": LORA}, {"precision": "bfloat16"}),
        (WIDE, {"lora": Lora(rank=4, targets=("q_proj", "v_proj"))}, {}),
        (WIDE, {"lora": Lora(rank=4, dora=True, dropout=0.1)}, {}),
        (WIDE, {"block.attention.position_encoding": "alibi"}, {}),
    ],
)
def test_a_plan_is_the_peak_whatever_is_trained_and_how(edits, fields, options):
    """Of an update, of few tokens and many weights; of a loss, of many words; of activations."""
    changes = {key: value for key, value in fields.items() if "." in key}
    spec = mal.edit_all(make_spec(1), edits | changes)
    B = 1 if edits is SMALL else 2
    recipe = Recipe(batch_size=B, seq_len=36, **{k: fields[k] for k in fields.keys() - changes})
    found = measure_torch(spec, B, 1, recipe, **options)
    plan = plan_memory(spec, recipe, Placement("torch", **options))
    assert plan.total == pytest.approx(found, rel=0.04)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"grad_checkpoint": True},
            "grad_checkpoint keeps no activation of a block, and selective_checkpoint some of "
            "them; leave one out",
        ),
        (
            {"backend": "mlx"},
            "mlx recomputes whole blocks, without selective_checkpoint; choose grad_checkpoint, or "
            "backend torch",
        ),
    ],
)
def test_selective_checkpointing_is_planned_where_it_exists(given, said):
    with pytest.raises(HermesError) as error:
        Placement(selective_checkpoint=True, **given)
    assert str(error.value) == said


@pytest.mark.parametrize("lora", [None, LORA])
@pytest.mark.parametrize("grad_checkpoint", [False, True])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_plan_is_about_the_peak_of_a_step_on_mlx(precision, grad_checkpoint, lora):
    """MLX runs ahead of its results as far as the machine lets it: its peak varies by 10 %."""
    spec, recipe = make_wide(), Recipe(batch_size=8, seq_len=36, lora=lora)
    options = {"precision": precision, "grad_checkpoint": grad_checkpoint}
    found = measure_mlx(spec, 8, 1, recipe, **options)
    assert plan_memory(spec, recipe, Placement("mlx", **options)).total == pytest.approx(
        found, rel=0.2
    )


def test_a_layer_that_is_recomputed_on_mlx_keeps_its_input_alone():
    """Twelve layers more: their inputs and what holds adapters, not what a layer keeps."""
    spec = mal.edit_all(make_spec(1), {"hidden_size": "64", "block.ffn.hidden_dim": "256"})
    recipe, B, peaks = Recipe(batch_size=16, seq_len=36, lora=LORA), 16, {}
    for layers in (4, 16):
        one = mal.edit_all(spec, {"num_layers": str(layers)})
        for checkpointed in (False, True):
            options = {"grad_checkpoint": checkpointed}
            frozen = 4 * count_parameters(one)
            peaks[layers, checkpointed] = measure_mlx(one, B, 1, recipe, **options) - frozen
    kept, recomputed = (peaks[16, one] - peaks[4, one] for one in (False, True))
    inputs = 12 * B * 36 * 64 * 4
    assert inputs < recomputed < inputs + kept / 10


def test_the_parts_of_a_plan_add_up_and_grow_with_the_batch():
    spec, recipe = make_wide(), Recipe(seq_len=36)
    totals = []
    for batch_size in (1, 4, 16):
        one = dataclasses.replace(recipe, batch_size=batch_size)
        plan = plan_memory(spec, one, Placement())
        parts = dataclasses.asdict(plan)
        assert plan.total == sum(size for size in parts.values() if isinstance(size, int))
        totals.append(plan.total)
    assert totals == sorted(totals)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_the_largest_batch_fits_and_one_more_does_not(backend):
    spec, recipe, placement = make_wide(), Recipe(seq_len=36), Placement(backend)
    free = 60_000_000
    size = find_largest_batch(spec, recipe, placement, free)
    totals = [
        plan_memory(spec, dataclasses.replace(recipe, batch_size=n), placement).total
        for n in (size, size + 1)
    ]
    assert totals[0] <= free < totals[1]
    assert find_largest_batch(spec, recipe, placement, 1000) == 0


def test_adapters_need_no_gradients_of_the_base():
    spec, placement = make_wide(), Placement()
    whole = plan_memory(spec, Recipe(seq_len=36), placement)
    adapted = plan_memory(spec, Recipe(seq_len=36, lora=Lora(rank=2)), placement)
    assert adapted.optimizer < whole.optimizer / 10
    assert adapted.gradients < whole.gradients


def test_sharding_splits_what_is_held():
    spec, recipe = make_wide(), Recipe(seq_len=36, batch_size=1)
    alone, split = (
        plan_memory(spec, recipe, Placement(processes=4, shard=shard)) for shard in (None, "full")
    )
    assert (split.weights, split.optimizer) == (alone.weights // 4, alone.optimizer // 4)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_frozen_base_is_planned_in_bfloat16_and_without_copies(backend):
    """Beside DoRA, which measures the layers' matrices in float32."""
    spec = make_wide()
    sizes = {n: one.size for n, one in list_parameters(spec).items() if len(one.shape) > 1}
    in_layers = sum(size for name, size in sizes.items() if ".layers." in name)

    def plan(precision, **fields):
        recipe = Recipe(seq_len=36, batch_size=1, lora=Lora(rank=2, **fields))
        return plan_memory(spec, recipe, Placement(backend, precision=precision))

    short, dora = plan("bfloat16"), plan("bfloat16", dora=True)
    assert plan("float32").weights - short.weights == 2 * sum(sizes.values())
    assert plan("float32", dora=True).weights - dora.weights == 2 * (
        sum(sizes.values()) - in_layers
    )
    assert short.moment == dora.moment == "loss"
    rows = sum(one.shape[0] for n, one in list_parameters(spec).items()
               if ".layers." in n and len(one.shape) > 1)  # fmt: skip
    outputs = rows * (36 * 2 + 2 + 4)  # what DoRA scales in bfloat16, and by what in both types
    assert dora.activations - short.activations == 2 * in_layers + outputs


@pytest.mark.parametrize("chunks", [1, 4])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_plan_is_about_the_peak_on_mlx_where_logits_are_most_of_it(
    chunks, precision, monkeypatch
):
    spec = mal.edit_all(make_spec(1), {"vocab_size": "3000", "hidden_size": "32"})
    rows = 8 * 36 // chunks
    monkeypatch.setattr(chunked_loss, "CHUNK_LOGITS", rows * 3000)
    monkeypatch.setitem(training_memory.CHUNKS, "mlx", (rows * 3000,) * 2)
    found = measure_mlx(spec, 8, 1, precision=precision)
    recipe = Recipe(batch_size=8, seq_len=36)
    plan = plan_memory(spec, recipe, Placement("mlx", precision=precision))
    assert plan.moment == "loss"
    assert plan.total == pytest.approx(found, rel=0.2)


def test_more_chunks_take_no_more_memory_on_mlx(monkeypatch):
    """A chunk that does not wait for the one before would keep that one's logits."""
    spec = mal.edit_all(make_spec(1), {"vocab_size": "3000", "hidden_size": "32"})
    monkeypatch.setattr(chunked_loss, "CHUNK_LOGITS", 18 * 3000)
    few, many = (measure_mlx(spec, B, 1) for B in (2, 16))  # 4 and 32 chunks
    # The activations of 14 more sequences; of each more chunk less than its logits.
    assert many - few < 28 * 18 * 3000 * 4


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_optimizers_take_what_they_keep(backend):
    spec = make_wide()
    weights = 4 * count_parameters(spec)
    hidden = 4 * sum(t.size for t in list_parameters(spec).values()
                     if t.part in ("attention", "ffn") and len(t.shape) == 2)  # fmt: skip

    def plan(ema=0.0, **optimizer):
        recipe = Recipe(seq_len=36, batch_size=2, ema=ema, optimizer=OptimizerRecipe(**optimizer))
        return plan_memory(spec, recipe, Placement(backend))

    assert plan().optimizer == 2 * weights
    assert plan(name="lion").optimizer == weights
    assert plan(name="muon").optimizer == 2 * weights - hidden
    assert plan(moments="bfloat16").optimizer == weights
    assert plan(name="adafactor").optimizer < weights / 20
    assert plan(ema=0.99).optimizer == 3 * weights
    assert plan(name="lion").total < plan().total < plan(ema=0.99).total


def test_the_gpu_of_a_mac_has_no_kernel_of_attention_in_torch():
    """Its layers keep scores, where CUDA's keep none; a run says so before it begins."""
    spec, recipe = make_spec(3), Recipe(batch_size=2, seq_len=1000)
    placements = [Placement("torch", device) for device in ("cuda", "mps", "cpu")]
    assert [count_unfused_layers(spec, recipe, one) for one in placements] == [0, 3, 0]
    cuda, mps, _ = (plan_memory(spec, recipe, one).activations for one in placements)
    scores = 2 * 4 * 1000 * 1000 * 4  # B, H, T, T
    assert mps - cuda > 2 * scores

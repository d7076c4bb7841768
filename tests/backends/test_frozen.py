"""Frozen matrices are held in bfloat16 under that precision, and nothing computes otherwise."""

import dataclasses

import ml_dtypes
import numpy as np
import pytest

from hermes.checkpoint.async_saver import copy_state
from hermes.errors import CheckpointError
from hermes.interface import LazyTensors, Options, PreferencePairs, TrainState
from hermes.numerics.frozen import FrozenWeights, list_frozen_matrices
from hermes.numerics.lora import init_adapters
from hermes.recipe import Lora, Preference, Recipe
from hermes.spec import AttentionSpec, Learned
from tests.backends.support import (
    TRAINING_BACKENDS,
    make_batch,
    make_learner,
    make_spec,
    make_weights,
)

SHORT = Options(device="cpu", precision="bfloat16")
RULE = Preference()
ROWS = (3, 20, 36)
PAIRS = Recipe(objective="preference", preference=RULE, lora=Lora(rank=2))
RECIPES = {
    "lora": Recipe(lora=Lora(rank=2, dropout=0.1)),
    "rows": Recipe(lora=Lora(rank=2, token_ids=ROWS)),
    "dora": Recipe(lora=Lora(rank=2, dora=True, token_ids=ROWS)),
    "pairs": PAIRS,
    "layers": Recipe(freeze_layers=1),
    "glob": Recipe(freeze=("*.mlp.*", "lm_head.*")),
}
MODELS = {
    "untied": make_spec(),
    "tied": make_spec(tied=True),
    "positions": make_spec(attention=AttentionSpec(4, 2, position_encoding=Learned(), bias="all")),
}
PARTS = [(backend, *one) for backend in TRAINING_BACKENDS for one in [
    ("untied", "lora"), ("tied", "lora"), ("positions", "lora"), ("untied", "rows"),
    ("tied", "rows"), ("untied", "dora"), ("tied", "pairs"), ("untied", "layers"),
    ("tied", "layers"), ("untied", "glob"),
]]  # fmt: skip


def make_first(model, recipe, *, short=False):
    """The weights, of which matrices have more bits than bfloat16, unless short; and adapters."""
    base = make_weights(model)
    if short:
        base = {name: x.astype(ml_dtypes.bfloat16) for name, x in base.items()}
    if recipe.lora is None:
        return base
    wide = {name: x.astype(np.float32) for name, x in base.items()}
    adapters = init_adapters(model, recipe.lora, 0, wide)
    hot = {n: x + np.float32(0.02) if "lora_B" in n else x for n, x in adapters.items()}
    return {**base, **hot}


def make(backend, model, recipe, params, **options):
    state = TrainState(params, {}, {}, 0, **options)
    return make_learner(backend, model, recipe, SHORT, state)


def make_rows(recipe):
    data = make_batch(A=2, B=4)
    if recipe.objective != "preference":
        return data
    return dataclasses.replace(data, pairs=PreferencePairs(np.zeros((2, 4)), RULE))


def count_held(learner):
    """Bytes of the module's parameters."""
    module = learner.runtime.module
    if hasattr(module, "named_parameters"):
        return sum(p.nbytes for _, p in module.named_parameters())
    return sum(x.nbytes for x in learner.runtime.get_parameters().values())


def assert_same_run(one, other, data):
    """To the bit: logits, loss, gradients, three steps and the state after them."""
    tokens = data.tokens[0]
    np.testing.assert_array_equal(one.logits(tokens), other.logits(tokens))
    assert one.loss(data) == other.loss(data)
    (loss, grads), (wanted, same) = one.grads(data), other.grads(data)
    assert loss == wanted
    assert set(grads) == set(same)
    for name, g in same.items():
        assert np.abs(g).max() > 0, name
        np.testing.assert_array_equal(grads[name], g, err_msg=name)
    for _ in range(3):
        reports = [each.step(data, 1e-2) for each in (one, other)]
        assert len({float(report.loss) for report in reports}) == 1
        assert len({float(report.grad_norm) for report in reports}) == 1
    states = [each.state() for each in (one, other)]
    for name, x in states[1].params.items():
        assert states[0].params[name].dtype == np.float32
        np.testing.assert_array_equal(states[0].params[name], x, err_msg=name)


@pytest.mark.parametrize(("backend", "model", "recipe"), PARTS)
def test_weights_that_can_be_read_again_are_held_short_and_change_no_bit(backend, model, recipe):
    """Beside a learner that holds them in float32, as it must where they cannot be read again."""
    spec, recipe = MODELS[model], RECIPES[recipe]
    params = make_first(spec, recipe)
    short = make(backend, spec, recipe, params, can_reread=True)
    plain = make(backend, spec, recipe, params)
    frozen = list_frozen_matrices(spec, recipe)
    if recipe.lora is not None and recipe.lora.dora:  # whose rows' lengths are float32's
        frozen = [name for name in frozen if ".layers." not in name]
    assert set(short.runtime.frozen) == set(frozen) != set()
    assert not set(plain.runtime.frozen)
    assert count_held(plain) - count_held(short) == 2 * sum(params[name].size for name in frozen)
    assert_same_run(short, plain, make_rows(recipe))
    for name in frozen:
        assert (params[name].view(np.uint32) & 0xFFFF).any()
        np.testing.assert_array_equal(short.state().params[name], params[name])


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
@pytest.mark.parametrize("recipe", ["lora", "dora", "layers"])
def test_weights_of_bfloat16_are_held_so_wherever_they_come_from(backend, recipe, monkeypatch):
    spec, recipe = MODELS["untied"], RECIPES[recipe]
    params = make_first(spec, recipe, short=True)
    short = make(backend, spec, recipe, params)
    with monkeypatch.context() as patch:
        patch.setattr(FrozenWeights, "shorten", lambda *_: False)
        plain = make(backend, spec, recipe, params)
    size = sum(params[name].size for name in list_frozen_matrices(spec, recipe))
    assert count_held(plain) - count_held(short) == 2 * size
    assert_same_run(short, plain, make_rows(recipe))


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_other_precisions_hold_what_they_held(backend, precision):
    spec, recipe = MODELS["untied"], RECIPES["lora"]
    state = TrainState(make_first(spec, recipe, short=True), {}, {}, 0, can_reread=True)
    options = Options(device="cpu", precision=precision)
    learner = make_learner(backend, spec, recipe, options, state)
    width = 8 if precision == "float64" else 4
    assert count_held(learner) == width * sum(x.size for x in state.params.values())


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
def test_ranks_that_hold_other_frozen_weights_have_other_digests(backend):
    spec, recipe = MODELS["untied"], RECIPES["lora"]
    params, name = make_first(spec, recipe), "model.layers.1.mlp.up_proj.weight"
    other = {**params, name: params[name] * np.where(np.arange(24)[:, None] == 3, 1.5, 1)}
    other[name] = other[name].astype(np.float32)
    first, same, changed = (
        make(backend, spec, recipe, each, can_reread=True).digests()
        for each in (params, dict(params), other)
    )
    assert first == same
    assert {key for key in first if first[key] != changed[key]} == {name}


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
def test_a_save_reads_frozen_weights_one_at_a_time_and_copies_the_rest(backend):
    spec, recipe = MODELS["untied"], RECIPES["lora"]
    params, read = make_first(spec, recipe), []
    source = LazyTensors(params, lambda name: (read.append(name), params[name])[1])
    learner = make(backend, spec, recipe, source, can_reread=True)
    learner.step(make_batch(), 1e-2)
    read.clear()
    copied = copy_state(learner.state())
    assert not read
    before = {name: np.array(x) for name, x in copied.params.items()}
    assert sorted(read) == sorted(list_frozen_matrices(spec, recipe))
    learner.step(make_batch(seed=1), 1e-2)
    for name, x in before.items():
        np.testing.assert_array_equal(copied.params[name], x, err_msg=name)


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
def test_a_source_that_was_written_over_is_refused_by_name(backend):
    spec, recipe = MODELS["untied"], RECIPES["lora"]
    params, name = make_first(spec, recipe), "model.layers.0.self_attn.q_proj.weight"
    learner = make(backend, spec, recipe, params, can_reread=True)
    params[name] = params[name].copy()
    params[name][0, 0] = np.nextafter(params[name][0, 0], np.float32(9))  # below bfloat16's bits
    with pytest.raises(CheckpointError, match=f"^'{name}' is frozen, and its source has changed"):
        learner.state().params[name]

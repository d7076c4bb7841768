"""What an optimizer step does, on each backend: laws that are easily broken unnoticed."""

import dataclasses
from contextlib import ExitStack

import numpy as np
import pytest
import torch

from hermes.errors import HermesError, SpecError
from hermes.interface import Options, TrainState, find_backend
from hermes.numerics.params import list_parameters
from hermes.numerics.update_rules import count_state_bytes
from hermes.recipe import OptimizerRecipe, Recipe
from hermes.spec import AttentionSpec
from hermes_conformance.faults.patcher import Patcher
from tests.backends.support import (
    EXACT,
    FLOAT32,
    TRAINING_BACKENDS,
    make_batch,
    make_learner,
    make_spec,
    make_weights,
    split_batch,
)


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_every_split_into_micro_batches_gives_the_same_gradients(backend, dropout):
    """Uneven counts: a mean of means, or only the last micro-batch, would differ."""
    model = make_spec(dropout=dropout)
    whole = make_batch(A=1, B=8, counted={(0, 0): 1, (0, 1): 2, (0, 5): 0, (0, 7): 3})
    loss, grads = make_learner(backend, model).grads(whole)
    for A in (2, 4, 8):
        again, found = make_learner(backend, model).grads(split_batch(whole, A))
        assert abs(again - loss) < 1e-12
        for name, g in grads.items():
            np.testing.assert_allclose(found[name], g, rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
def test_clipping_bounds_the_gradient_and_leaves_the_weights_alone(backend):
    """With SGD-like moments off, a bounded gradient shows in exp_avg = (1 - beta1) * clipped."""
    model, data = make_spec(), make_batch()
    _, grads = make_learner(backend, model).grads(data)
    norm = np.sqrt(sum((g**2).sum() for g in grads.values()))
    bound = float(norm / 3)
    update = make_learner(backend, model, Recipe(grad_clip=bound))
    report = update.step(data, 1e-12)
    assert abs(float(report.grad_norm) / norm - 1) < 1e-12
    state = update.state()
    for name, g in grads.items():
        clipped = 0.1 * g * bound / (norm + 1e-6)
        np.testing.assert_allclose(state.exp_avg[name], clipped, rtol=1e-9, atol=1e-18)
        np.testing.assert_allclose(state.params[name], make_weights(model)[name], atol=1e-10)


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
@pytest.mark.parametrize("options", [EXACT, FLOAT32], ids=["float64", "float32"])
def test_a_step_is_adamw_with_bias_correction_and_decay_of_matrices_only(backend, options):
    """Against torch.optim.AdamW itself, in float64, on the backend's own gradients."""
    model = make_spec(attention=AttentionSpec(4, 2, bias="all"))
    recipe = Recipe(grad_clip=0, optimizer=OptimizerRecipe(weight_decay=0.3, beta2=0.9))
    update = make_learner(backend, model, recipe, options)
    table = list_parameters(model)
    mine = {n: torch.tensor(w, dtype=torch.float64) for n, w in make_weights(model).items()}
    groups = [
        {"params": [mine[n] for n in table if table[n].decay is decay], "weight_decay": rate}
        for decay, rate in ((True, 0.3), (False, 0.0))
    ]
    reference = torch.optim.AdamW(groups, betas=(0.9, 0.9), eps=1e-8)
    for step in range(4):
        data, lr = make_batch(seed=step), 1e-2 / (step + 1)
        _, grads = update.grads(data)
        for name, p in mine.items():
            p.grad = torch.tensor(grads[name], dtype=torch.float64)
        for group in reference.param_groups:
            group["lr"] = lr
        reference.step()
        update.step(data, lr)
    bound = 1e-12 if options is EXACT else 2e-6
    found = update.state().params
    for name, p in mine.items():
        np.testing.assert_allclose(found[name], p.numpy(), rtol=0, atol=bound, err_msg=name)


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
def test_freezing_holds_the_bottom_layers_and_only_those(backend):
    """Twelve layers, so that a match of `layers.1` by prefix would take `layers.10` along."""
    model = make_spec(layers=12)
    update = make_learner(backend, model, Recipe(freeze_layers=2), FLOAT32)
    for step in range(2):
        update.step(make_batch(seed=step), 1e-2)
    state, before = update.state(), make_weights(model)
    frozen = ("model.embed_tokens.", "model.layers.0.", "model.layers.1.")
    for name in list_parameters(model):
        same = np.array_equal(state.params[name], before[name])
        assert same == name.startswith(frozen), name
        assert (name in state.exp_avg) != name.startswith(frozen), name


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
def test_too_many_layers_to_freeze_is_an_error(backend):
    with pytest.raises(SpecError, match=r"^freeze_layers is 3; the model has 2 layers$"):
        make_learner(backend, make_spec(), Recipe(freeze_layers=3))


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
@pytest.mark.parametrize("freeze", [0, 1])
def test_a_tied_head_stays_tied_and_is_frozen_with_the_embeddings(backend, freeze):
    model = make_spec(tied=True)
    update = make_learner(backend, model, Recipe(freeze_layers=freeze))
    for step in range(3):
        update.step(make_batch(seed=step), 1e-2)
    state = update.state()
    assert "lm_head.weight" not in state.params
    moved = not np.array_equal(
        state.params["model.embed_tokens.weight"], make_weights(model)["model.embed_tokens.weight"]
    )
    assert moved is (freeze == 0)
    tokens = make_batch().tokens[0]
    oracle = find_backend("numpy").build(model, dict(state.params))
    np.testing.assert_allclose(update.logits(tokens), oracle.logits(tokens), atol=1e-11)


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
def test_dropout_acts_in_training_and_never_in_evaluation(backend):
    model, data = make_spec(dropout=0.3), make_batch()
    update = make_learner(backend, model)
    dropped, _ = update.grads(data)
    assert abs(dropped - update.loss(data)) > 1e-3
    assert update.loss(data) == update.loss(data)
    update.step(data, 0.0)
    assert abs(update.grads(data)[0] - dropped) > 1e-4  # another step, another mask


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
def test_a_step_with_a_loss_that_is_not_finite_changes_nothing(backend):
    model, data = make_spec(), make_batch()
    state = make_weights(model)
    state["model.norm.weight"] = np.full(16, np.nan, np.float32)
    for options in (EXACT, FLOAT32):
        update = make_learner(backend, model, None, options, TrainState(state, {}, {}, 0))
        report = update.step(data, 1e-2)
        assert not np.isfinite(float(report.loss))
        after = update.state()
        for name, w in state.items():
            np.testing.assert_array_equal(after.params[name], w, err_msg=name)
            assert not after.exp_avg[name].any()


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
def test_a_resumed_run_is_the_uninterrupted_run_to_the_bit(backend):
    """To the bit: weights, moments, bias correction and dropout masks."""
    model = make_spec(dropout=0.1)
    whole = make_learner(backend, model, None, FLOAT32)
    losses = [float(whole.step(make_batch(seed=i), 1e-2).loss) for i in range(6)]
    first = make_learner(backend, model, None, FLOAT32)
    for i in range(3):
        first.step(make_batch(seed=i), 1e-2)
    held = first.state()
    held = TrainState(dict(held.params), dict(held.exp_avg), dict(held.exp_avg_sq), held.step)
    second = make_learner(backend, model, None, FLOAT32, held)
    assert [float(second.step(make_batch(seed=i), 1e-2).loss) for i in range(3, 6)] == losses[3:]
    for name, w in whole.state().params.items():
        np.testing.assert_array_equal(second.state().params[name], w)


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
def test_activation_checkpointing_changes_no_gradient(backend):
    model, data = make_spec(dropout=0.2), make_batch(A=2)
    loss, grads = make_learner(backend, model).grads(data)
    again, found = make_learner(
        backend, model, None, dataclasses.replace(EXACT, grad_checkpoint=True)
    ).grads(data)
    assert again == loss
    for name, g in grads.items():
        np.testing.assert_allclose(found[name], g, rtol=0, atol=1e-14)


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
def test_bfloat16_trains_near_float32_and_keeps_float32_masters(backend):
    model = make_spec()
    ends = []
    for precision in ("float32", "bfloat16"):
        update = make_learner(backend, model, None, Options(device="cpu", precision=precision))
        losses = [float(update.step(make_batch(seed=0), 3e-3).loss) for _ in range(8)]
        ends.append((losses, update.state()))
    (plain, _), (coarse, state) = ends
    np.testing.assert_allclose(coarse, plain, rtol=3e-2)
    assert coarse != plain
    assert coarse[-1] < coarse[0]
    master = state.params["model.layers.0.mlp.up_proj.weight"]
    assert master.dtype == np.float32
    assert (master.view(np.uint32) & 0xFFFF).any()  # more bits than bfloat16 has


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
def test_a_batch_without_targets_is_refused(backend):
    nothing = make_batch(counted={(0, 0): 0, (0, 1): 0})
    with pytest.raises(HermesError, match=r"^a batch without a single counted target has no loss$"):
        make_learner(backend, make_spec()).step(nothing, 1e-3)


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
def test_a_state_that_was_read_is_changed_by_no_later_step(backend):
    made = make_learner(backend, make_spec(), options=FLOAT32)
    made.step(make_batch(), 1e-2)
    state = made.state()
    read = [dict(part) for part in (state.params, state.exp_avg, state.exp_avg_sq)]
    before = [{name: np.array(x) for name, x in part.items()} for part in read]
    made.step(make_batch(seed=1), 1e-2)
    for part, was in zip(read, before, strict=True):
        for name in was:
            np.testing.assert_array_equal(part[name], was[name], err_msg=name)


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
def test_a_tensor_that_the_loss_does_not_depend_on_has_zeros_for_a_gradient(backend):
    with ExitStack() as stack:
        patcher = Patcher(backend, stack)

        def unused(attention):
            return lambda q, k, v, *rest: attention(q, k, patcher.detach(v), *rest)

        patcher.wrap_table("attention", unused)
        made = make_learner(backend, make_spec())
        _, grads = made.grads(make_batch())
        assert not np.asarray(grads["model.layers.1.self_attn.v_proj.weight"]).any()
        assert np.asarray(grads["model.layers.1.self_attn.o_proj.weight"]).any()
        report = made.step(make_batch(), 1e-3)
    assert np.isfinite(float(report.grad_norm))


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
def test_moments_in_8_bits_take_a_quarter_and_a_restart_changes_no_bit(backend):
    """What is held is codes and exponents; what is handed over is the numbers they stand for."""
    model, recipe = make_spec(), Recipe(optimizer=OptimizerRecipe(moments="float8"))
    learner = make_learner(backend, model, recipe, FLOAT32)
    for i in range(3):
        learner.step(make_batch(seed=i), 1e-2)
    kept = learner._optimizer.kept
    if backend == "torch":
        moments = [m for slots in kept.values() for m in slots.values()]
        parts = [part for m in moments for part in (m.codes, m.exponents)]
    else:
        parts = [part for held in kept.values() for pair in held.values() for part in pair]
    assert {str(part.dtype).rpartition(".")[2] for part in parts} == {"uint8"}
    assert sum(part.nbytes for part in parts) == count_state_bytes(model, recipe, 4)
    again = make_learner(backend, model, recipe, FLOAT32, learner.state())
    for one in (learner, again):
        one.step(make_batch(seed=4), 1e-2)
    assert_same_state(again.state(), learner.state())


@pytest.mark.parametrize("backend", TRAINING_BACKENDS)
def test_moments_that_are_rounded_at_random_take_half_and_a_restart_changes_no_bit(backend):
    optimizer = OptimizerRecipe(moments="bfloat16-stochastic", beta2=0.999)
    model, recipe = make_spec(), Recipe(optimizer=optimizer)
    learner = make_learner(backend, model, recipe, FLOAT32)
    for i in range(3):
        learner.step(make_batch(seed=i), 1e-2)
    kept = learner._optimizer.kept
    moments = [m for held in kept.values() for m in held.values()]
    parts = [m.values for m in moments] if backend == "torch" else moments
    assert {str(part.dtype).rpartition(".")[2] for part in parts} == {"bfloat16"}
    assert sum(part.nbytes for part in parts) == count_state_bytes(model, recipe, 4)
    again = make_learner(backend, model, recipe, FLOAT32, learner.state())
    for one in (learner, again):
        one.step(make_batch(seed=4), 1e-2)
    assert_same_state(again.state(), learner.state())


def assert_same_state(got, expected):
    for slot, held in {"params": expected.params, **expected.slots}.items():
        for name, value in held.items():
            part = got.params if slot == "params" else got.slots[slot]
            np.testing.assert_array_equal(part[name], value)

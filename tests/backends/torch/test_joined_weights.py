"""Matrices of one input are one product; each is still a tensor of its own for all else."""

import dataclasses

import numpy as np
import pytest
import torch

from hermes.interface import Options, TrainState, find_backend
from hermes.numerics.lora import init_adapters
from hermes.recipe import Lora, Recipe
from hermes.spec import AttentionSpec
from tests.backends.support import FLOAT32, make_batch, make_learner, make_spec, make_weights
from tests.backends.torch.attention_support import CountProducts, Graphs

HALF = Options(device="cpu", precision="bfloat16")
BIASED = AttentionSpec(4, 2, bias="qkv")


def train(monkeypatch, joins, model, options=FLOAT32, recipe=None):
    with monkeypatch.context() as patch:
        if not joins:
            patch.setattr("hermes_torch.runtime.join_weights", lambda *_, **__: None)
        learner = make_learner("torch", model, recipe, options)
    batch = make_batch(A=2)
    with CountProducts() as counts:
        loss, grads = learner.grads(batch)
    losses = [float(learner.step(batch, 1e-2).loss) for _ in range(3)]
    return counts.products, loss, grads, losses, dict(learner.params())


@pytest.mark.parametrize("attention", [AttentionSpec(4, 2), BIASED])
@pytest.mark.parametrize(("options", "bound"), [(FLOAT32, 1e-6), (HALF, 2e-2)])
def test_a_step_is_the_same_with_fewer_products(monkeypatch, attention, options, bound):
    """Of 2 layers: 7 matrices or 4 in each, times 3 for both passes, and the 3 of the head."""
    model = make_spec(attention=attention)
    apart, loss, grads, losses, weights = train(monkeypatch, False, model, options)
    joined, joined_loss, joined_grads, joined_losses, after = train(
        monkeypatch, True, model, options
    )
    assert (apart, joined) == (2 * (2 * 21 + 3), 2 * (2 * 12 + 3))
    assert joined_loss == pytest.approx(loss, rel=bound)
    assert joined_losses == pytest.approx(losses, rel=bound)
    for name, grad in grads.items():
        if "k_proj.bias" not in name:  # whose gradient is rounding alone
            error = np.linalg.norm(joined_grads[name] - grad) / np.linalg.norm(grad)
            assert error < bound, name
            np.testing.assert_allclose(after[name], weights[name], atol=30 * bound)


def test_frozen_layers_have_no_gradients_of_their_matrices(monkeypatch):
    recipe = Recipe(freeze_layers=1)
    apart, _, grads, losses, _ = train(monkeypatch, False, make_spec(), recipe=recipe)
    joined, _, joined_grads, joined_losses, _ = train(monkeypatch, True, make_spec(), recipe=recipe)
    assert joined < apart
    assert set(joined_grads) == set(grads)
    assert joined_losses == pytest.approx(losses, rel=1e-6)


def test_adapted_matrices_stay_apart():
    model, lora = make_spec(), Lora(rank=2)
    weights = make_weights(model)
    state = TrainState({**weights, **init_adapters(model, lora, 0, weights)}, {}, {}, 0)
    learner = make_learner("torch", model, Recipe(lora=lora), FLOAT32, state)
    layer = learner.runtime.module.model.layers[0]
    assert layer.self_attn.q_proj.joined is None
    assert not layer.self_attn.q_proj.leads_product
    assert layer.mlp.up_proj.joined is None
    assert np.isfinite(float(learner.step(make_batch(), 1e-2).loss))


def test_a_matrix_is_its_rows_of_the_joined_one_and_is_in_memory_once():
    learner = make_learner("torch", make_spec(), options=FLOAT32)
    attention = learner.runtime.module.model.layers[0].self_attn
    joined = attention.q_proj.joined
    learner.step(make_batch(), 1e-2)
    parts = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    assert torch.equal(joined, torch.cat(parts))
    assert {p.untyped_storage().data_ptr() for p in parts} == {joined.untyped_storage().data_ptr()}


def test_a_reference_model_computes_what_the_learner_does_bit_for_bit():
    model, batch = make_spec(), make_batch()
    options = dataclasses.replace(FLOAT32, as_trained=True)
    built = find_backend("torch").build(model, make_weights(model), options)
    learner = make_learner("torch", model, options=FLOAT32)
    np.testing.assert_array_equal(
        built.logprobs(batch.tokens[0], batch.targets[0]),
        learner.logprobs(batch.tokens[0], batch.targets[0]),
    )


def test_a_compiled_step_has_as_few_products(monkeypatch):
    graphs = Graphs(monkeypatch)
    options = Options(device="cpu", compile=True)
    make_learner("torch", make_spec(layers=1), options=options).grads(make_batch())
    assert (len(graphs.forward), len(graphs.backward)) == (1, 1)
    # The head's product with rows of 37 numbers is an operator of ours.
    products = graphs.count("aten.mm") + graphs.count("multiply_aligned")
    assert products == 12 + 3
    assert graphs.count("scatter") == 0

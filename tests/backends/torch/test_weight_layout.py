"""Matrices packed in oneDNN's layout: which models have them, and that they change only speed."""

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from hermes.interface import Options, TrainState, find_backend
from hermes.numerics.params import init_weights
from hermes.recipe import Recipe
from hermes.spec import AttentionSpec, BlockSpec, EmbeddingsSpec, FfnSpec, ModelSpec
from hermes_torch.weight_layout import can_pack

CPU = torch.device("cpu")
PRECISIONS = [
    pytest.param(
        name,
        marks=pytest.mark.skipif(
            not can_pack(CPU, getattr(torch, name)), reason=f"no layout for {name} here"
        ),
    )
    for name in ("float32", "bfloat16")
]


def make_spec(tied):
    block = BlockSpec(AttentionSpec(2, bias="all"), FfnSpec(hidden_dim=24))
    return ModelSpec((block,), "m", "", 23, 16, 16, 2, EmbeddingsSpec(tie_weights=tied))


def build_model(tied, **options):
    weights = init_weights(make_spec(tied), 5)
    return weights, find_backend("torch").build(make_spec(tied), weights, Options("cpu", **options))


def list_packed(model):
    """Names of matrices that are packed, alone or with those of the same input."""
    module = model.runtime.module
    packed = [name for name, p in module.named_parameters() if p.is_mkldnn]
    return packed + [name for name, p in module.named_parameters() if p.is_meta]


def count_products(model, monkeypatch):
    """How many products a step of decoding has."""
    made, multiply = [], torch.ops.mkldnn._linear_pointwise
    decoder = model.decoder(1, 4)
    with monkeypatch.context() as patch:
        patch.setattr(
            torch.ops.mkldnn,
            "_linear_pointwise",
            lambda *args: made.append(args[1]) or multiply(*args),
        )
        decoder.advance(np.array([[1]]))
    return len(made)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_matrix_that_multiplies_is_packed_and_comes_back_whole(tied, precision):
    weights, model = build_model(tied, precision=precision)
    matrices = {name for name, array in weights.items() if array.ndim == 2}
    assert set(list_packed(model)) == matrices - {"model.embed_tokens.weight"} | {"lm_head.weight"}
    kept = torch.float32 if precision == "float32" else torch.bfloat16
    for name, array in model.params().items():
        rounded = torch.from_numpy(weights[name]).to(kept if name in matrices else torch.float32)
        np.testing.assert_array_equal(array, rounded.float().numpy())
    assert set(model.params()) == set(weights)


def test_matrices_of_one_input_are_one_product(monkeypatch):
    """q, k and v; o; up and gate; down: of 2 layers, and the head."""
    _, model = build_model(True)
    assert count_products(model, monkeypatch) == 2 * 4 + 1
    matrices = [p for p in model.runtime.module.parameters() if p.is_meta]
    assert len(matrices) == 2 * 5  # which have no memory of their own


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_packed_products_are_the_same_up_to_rounding(rows, precision):
    _, model = build_model(False, precision=precision)
    _, plain = build_model(False, precision=precision, exact=True)
    assert not list_packed(plain)
    tokens = np.arange(rows * 12).reshape(rows, 12) % 23
    expected, found = plain.logits(tokens), model.logits(tokens)
    bound = {"float32": 1e-5, "bfloat16": 3e-2}[precision]
    assert np.abs(found - expected).max() < bound * np.abs(expected).max()


def test_learners_and_exact_models_and_those_built_as_trained_are_not_packed():
    state = TrainState(init_weights(make_spec(True), 5), {}, {}, 0)
    learner = find_backend("torch").learner(make_spec(True), state, Recipe(), Options("cpu"))
    assert not list_packed(learner)
    assert not list_packed(build_model(True, precision="float64")[1])
    assert not list_packed(build_model(True, as_trained=True)[1])

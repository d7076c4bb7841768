"""Matrices in the processor's own layout: whose they are, and that they change nothing but time."""

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


def spec(tied):
    block = BlockSpec(AttentionSpec(2, bias="all"), FfnSpec(hidden_dim=24))
    return ModelSpec((block,), "m", "", 23, 16, 16, 2, EmbeddingsSpec(tie_weights=tied))


def built(tied, **options):
    weights = init_weights(spec(tied), 5)
    return weights, find_backend("torch").build(spec(tied), weights, Options("cpu", **options))


def packed(model):
    return [name for name, p in model.runtime.module.named_parameters() if p.is_mkldnn]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_matrix_that_multiplies_is_packed_and_comes_back_whole(tied, precision):
    weights, model = built(tied, precision=precision)
    matrices = {name for name, array in weights.items() if array.ndim == 2}
    assert set(packed(model)) == matrices - {"model.embed_tokens.weight"} | {"lm_head.weight"}
    kept = torch.float32 if precision == "float32" else torch.bfloat16
    for name, array in model.params().items():
        rounded = torch.from_numpy(weights[name]).to(kept if name in matrices else torch.float32)
        np.testing.assert_array_equal(array, rounded.float().numpy())
    assert set(model.params()) == set(weights)


@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_packed_products_are_the_same_up_to_rounding(rows, precision):
    _, model = built(False, precision=precision)
    _, plain = built(False, precision=precision, exact=True)
    assert not packed(plain)
    tokens = np.arange(rows * 12).reshape(rows, 12) % 23
    expected, found = plain.logits(tokens), model.logits(tokens)
    bound = {"float32": 1e-5, "bfloat16": 3e-2}[precision]
    assert np.abs(found - expected).max() < bound * np.abs(expected).max()


def test_what_is_trained_or_exact_or_asked_for_as_trained_stays_plain():
    state = TrainState(init_weights(spec(True), 5), {}, {}, 0)
    learner = find_backend("torch").learner(spec(True), state, Recipe(), Options("cpu"))
    assert not packed(learner)
    assert not packed(built(True, precision="float64")[1])
    assert not packed(built(True, as_trained=True)[1])

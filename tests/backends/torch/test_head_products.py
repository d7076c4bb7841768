"""The products of the loss in memory of the BLAS's liking are the same products."""

import numpy as np
import pytest
import torch

from hermes.interface import Batch, Options, TrainState, find_backend
from hermes.numerics import chunking
from hermes.numerics.params import init_weights
from hermes.recipe import Recipe
from hermes.spec import AttentionSpec, BlockSpec, EmbeddingsSpec, FfnSpec, ModelSpec, OutputSpec
from hermes_torch import chunked_loss, head_products

V, B, T = 97, 4, 13
OPERATORS = torch.ops.hermes_torch


def make_numbers(*shape):
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape, np.float32))


@pytest.mark.parametrize("vocabulary", [96, 97, 111])
def test_rows_of_a_product_begin_at_cache_lines(vocabulary):
    x, weight = make_numbers(20, 8), make_numbers(vocabulary, 8)
    y = head_products.multiply_aligned(x, weight)
    assert y.shape == (20, vocabulary)
    assert y.stride(0) % head_products.LINE == 0
    assert y.stride(0) - vocabulary < head_products.LINE
    torch.testing.assert_close(y, x @ weight.T)


def test_the_operators_are_what_they_tell_the_compiler():
    tests = ("test_schema", "test_faketensor")
    x, weight = make_numbers(20, 8), make_numbers(V, 8)
    torch.library.opcheck(OPERATORS.multiply_aligned.default, (x, weight), test_utils=tests)
    given = make_numbers(V, 8), make_numbers(20, V).T, x, torch.tensor(3.0)
    torch.library.opcheck(OPERATORS.add_product.default, given, test_utils=tests)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_added_in_place(dtype):
    total, a, b = make_numbers(V, 8), make_numbers(V, 20).to(dtype), make_numbers(20, 8).to(dtype)
    wanted, place = total + (a @ b), total.data_ptr()
    assert head_products.add_product(total, a, b, torch.tensor(3.0)) == 3
    assert total.data_ptr() == place
    torch.testing.assert_close(total, wanted)


def make_learner(**options):
    block = BlockSpec(AttentionSpec(1), FfnSpec(hidden_dim=8))
    heads = EmbeddingsSpec(tie_weights=True), OutputSpec(bias=True, scale=0.3)
    spec = ModelSpec((block,), "odd", "", V, 16, 8, 1, *heads)
    weights = {name: 3 * np.asarray(x) for name, x in init_weights(spec, 0).items()}
    state = TrainState(weights, {}, {}, 0)
    return find_backend("torch").learner(spec, state, Recipe(), Options(device="cpu", **options))


def test_a_compiled_loss_of_several_chunks_is_that_of_float64_and_copies_no_sum(monkeypatch):
    monkeypatch.setattr(chunked_loss, "CHUNK_LOGITS", {"cpu": 18 * V})  # 18, 18 and 16 tokens
    monkeypatch.setattr(chunking, "FEWEST_TOKENS", 1)
    ids = np.random.default_rng(0).integers(0, V, (1, B, T + 1)).astype(np.int32)
    batch = Batch(ids[..., :-1], ids[..., 1:].copy(), np.arange(B, dtype=np.uint32)[None])
    wanted_loss, wanted = make_learner(precision="float64").grads(batch)
    learner = make_learner(compile=True)
    loss, grads = learner.grads(batch)
    assert loss == pytest.approx(wanted_loss, rel=1e-6)
    for name, gradient in wanted.items():
        np.testing.assert_allclose(grads[name], gradient, atol=5e-6 * np.abs(gradient).max())
    counted = find_backend("torch").count_work(lambda: learner.grads(batch)).operations
    assert counted["hermes_torch::multiply_aligned"] == 3
    assert counted["hermes_torch::add_product"] == 2
    # Each a product with the sum so far, in place: none is copied to be added to.
    assert counted["aten::addmm_"] == 2
    assert not counted.get("aten::addmm")

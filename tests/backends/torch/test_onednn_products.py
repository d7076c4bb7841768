"""Products by oneDNN, where it is the faster one, are the same products."""

import dataclasses

import numpy as np
import pytest
import torch

from hermes.interface import Options, find_backend
from hermes.recipe import Recipe
from hermes.spec import AttentionSpec
from hermes_torch import onednn_products
from hermes_torch.onednn_products import apply_matrix, has_faster_products, multiply_by_onednn
from tests.backends.support import make_batch, make_learner, make_spec

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"
)

OPERATOR = "hermes_torch::multiply_by_onednn"
BIASED = make_spec(attention=AttentionSpec(4, 2, bias="all"))

FLOAT32 = Options(device="cpu")
EVERYTHING = (
    FLOAT32,
    dataclasses.replace(FLOAT32, compile=True),
    dataclasses.replace(FLOAT32, compile=True, grad_checkpoint=True),
    dataclasses.replace(FLOAT32, selective_checkpoint=True),
)


@pytest.fixture
def everywhere(monkeypatch):
    torch.compiler.reset()
    monkeypatch.setattr(onednn_products, "FASTER", True)
    monkeypatch.setattr(onednn_products, "FEWEST_PRODUCTS", 0)
    yield
    torch.compiler.reset()


def make_numbers(*shape):
    return torch.from_numpy(np.random.default_rng(0).standard_normal(shape, np.float32))


@pytest.mark.parametrize("is_transposed", [False, True])
def test_a_product_is_that_of_float64(everywhere, is_transposed):
    x = make_numbers(3, 5, 7)
    weight = make_numbers(7, 11).T if is_transposed else make_numbers(11, 7)
    y = apply_matrix(x, weight)
    assert y.shape == (3, 5, 11)
    torch.testing.assert_close(y.double(), x.double() @ weight.double().T, rtol=1e-5, atol=1e-6)


def test_the_operator_is_what_it_tells_the_compiler_and_has_gradients(everywhere):
    x, weight = make_numbers(3, 5, 7).requires_grad_(), make_numbers(11, 7).requires_grad_()
    torch.library.opcheck(multiply_by_onednn, (x, weight))


@pytest.mark.parametrize("model", [make_spec(), BIASED])
@pytest.mark.parametrize("options", EVERYTHING)
def test_gradients_are_those_of_float64(everywhere, model, options):
    batch = make_batch()
    exact = dataclasses.replace(FLOAT32, precision="float64")
    wanted_loss, wanted = make_learner("torch", model, options=exact).grads(batch)
    loss, grads = make_learner("torch", model, options=options).grads(batch)
    assert loss == pytest.approx(wanted_loss, rel=1e-6)
    for name, gradient in wanted.items():
        bound = 1e-5 * max(np.abs(gradient).max(), 1e-3)
        np.testing.assert_allclose(grads[name], gradient, atol=bound, err_msg=name)


def count_products(recipe=None, **options):
    learner = make_learner("torch", make_spec(), recipe, dataclasses.replace(FLOAT32, **options))
    learner.grads(make_batch())
    counted = find_backend("torch").count_work(lambda: learner.grads(make_batch())).operations
    return counted.get(OPERATOR, 0)


def test_what_is_given_and_its_gradient_are_products_of_onednn(everywhere):
    """2 layers of 4 matrices, and the head: forward, and backward to what each was given."""
    assert count_products() == count_products(compile=True) == 2 * (2 * 4 + 1)


def test_what_lies_before_frozen_layers_has_no_gradient(everywhere):
    assert count_products(Recipe(freeze_layers=1)) == 2 * (2 * 4 + 1) - 4


def test_small_products_and_other_types_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(onednn_products, "FASTER", True)
    x, weight = make_numbers(256, 256), make_numbers(256, 256)
    assert onednn_products.wants_onednn(x, weight)
    assert not onednn_products.wants_onednn(x[:-1], weight)
    assert not onednn_products.wants_onednn(x.double(), weight.double())
    assert not onednn_products.wants_onednn(x.bfloat16(), weight.bfloat16())
    assert not onednn_products.wants_onednn(x.to("meta"), weight.to("meta"))


@pytest.mark.parametrize(
    ("facts", "is_faster"),
    [
        ({"cpu_name": "AMD EPYC 9R14", "avx512_f": True}, True),
        ({"cpu_name": "AMD EPYC 7763", "avx512_f": False}, False),
        ({"cpu_name": "Intel Xeon Platinum 8481C", "avx512_f": True}, False),
        ({"architecture": "arm64"}, False),
    ],
)
def test_the_processor_decides(monkeypatch, facts, is_faster):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: facts)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    assert has_faster_products() is is_faster


def test_a_torch_that_knows_nothing_of_the_processor_keeps_its_own_products(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert not has_faster_products()

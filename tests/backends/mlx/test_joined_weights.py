"""Matrices of one input are one product of a model that decodes, and parameters of their own."""

import dataclasses

import numpy as np
import pytest

from hermes.interface import find_backend
from hermes.spec import AttentionSpec
from tests.backends.support import FLOAT32, make_batch, make_learner, make_spec, make_weights

BIASED = AttentionSpec(4, 2, bias="qkv")


def build(model, **options):
    return find_backend("mlx").build(
        model, make_weights(model), dataclasses.replace(FLOAT32, **options)
    )


def list_joined(model):
    return [one for one in model.runtime.module.modules() if "_joined" in one]


@pytest.mark.parametrize("attention", [AttentionSpec(4, 2), BIASED])
def test_joined_products_are_those_of_matrices_apart(attention):
    model = make_spec(attention=attention)
    joined, apart = build(model), build(model, as_trained=True)
    assert len(list_joined(joined)) == 2 * len(model.layers)
    assert list_joined(apart) == []
    tokens = make_batch().tokens[0]
    np.testing.assert_allclose(joined.logits(tokens), apart.logits(tokens), atol=2e-5)
    assert dict(joined.params()).keys() == dict(apart.params()).keys()
    for name, array in apart.params().items():
        np.testing.assert_array_equal(joined.params()[name], array)


def test_exact_models_and_learners_have_their_matrices_apart():
    assert list_joined(build(make_spec(), exact=True)) == []
    assert list_joined(build(make_spec(), precision="float64")) == []
    assert list_joined(make_learner("mlx", make_spec(), options=FLOAT32)) == []


def test_a_matrix_is_its_rows_of_the_joined_one_in_memory():
    attention = build(make_spec()).runtime.module.model.layers[0].self_attn
    whole = np.asarray(attention.q_proj["_joined"])
    parts = [attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
    assert all(np.shares_memory(whole, np.asarray(part)) for part in parts)

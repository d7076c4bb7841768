"""Activations by power(e, x), which a CPU without Apple's kernels computes faster."""

import math

import numpy as np
import pytest

pytest.importorskip("mlx.core")

import hermes_mlx  # noqa: F401, I001  before mlx.core, for its BLAS
import mlx.core as mx
from hermes_mlx.elementary import FEW, gelu_tanh, gelu_tanh_plain

X = np.concatenate([np.linspace(-12, 12, 2 * FEW - 6), [-1e4, -100, -30, 30, 100, 1e4]])
U = math.sqrt(2 / math.pi)


def define_gelu_tanh(x):
    return x * (1 + np.tanh(U * (x + 0.044715 * x**3))) / 2


def test_gelu_tanh_by_power_is_the_definition():
    with mx.stream(mx.cpu):
        found = np.array(gelu_tanh_plain(mx.array(X, mx.float32)))
        few = mx.array(X[:FEW], mx.float32)
        assert mx.array_equal(gelu_tanh_plain(few), gelu_tanh(few))
    np.testing.assert_allclose(found, define_gelu_tanh(X.astype(np.float32)), rtol=2e-6, atol=2e-7)


def test_its_derivative_is_that_of_the_definition():
    with mx.stream(mx.cpu):
        x = mx.array(X, mx.float32)
        found = np.array(mx.grad(lambda x: gelu_tanh_plain(x).sum())(x))
    wide = X.astype(np.float32).astype(np.float64)
    tanh = np.tanh(U * (wide + 0.044715 * wide**3))
    inner = U * (1 + 3 * 0.044715 * wide**2)
    expected = (1 + tanh) / 2 + wide * (1 - tanh**2) * inner / 2
    np.testing.assert_allclose(found, expected, rtol=4e-6, atol=4e-7)

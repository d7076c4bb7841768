"""MLX's own erf is a float32's; ours is exact in float64, and so is its derivative."""

import math

import numpy as np
import pytest

pytest.importorskip("mlx.core")

import hermes_mlx  # noqa: F401, I001  before mlx.core, for its BLAS
import mlx.core as mx
from hermes_mlx.erf import erf

# All three ranges of the approximation, their bounds, both signs, and where erf rounds to 1.
X = [0.0, 1e-12, 0.2, 0.46875, 0.46876, 1.0, 2.5, 4.0, 4.001, 5.8, 6.0, 30.0]
X = [*X, *(-x for x in X)]


def test_erf_is_exact_to_the_last_bits():
    with mx.stream(mx.cpu):
        values = np.array(erf(mx.array(X, mx.float64)))
    np.testing.assert_allclose(values, [math.erf(x) for x in X], rtol=4e-16)


def test_its_derivative_is_that_of_the_definition():
    with mx.stream(mx.cpu):
        grads = np.array(mx.grad(lambda x: erf(x).sum())(mx.array(X, mx.float64)))
    expected = [2 / math.sqrt(math.pi) * math.exp(-x * x) for x in X]
    # x * x = 36 is rounded before exp, so exp(-36) is only as good as 36 units of rounding.
    np.testing.assert_allclose(grads, expected, rtol=4e-15, atol=1e-300)

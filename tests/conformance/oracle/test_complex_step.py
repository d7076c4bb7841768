"""Derivatives of the oracle by complex steps."""

import numpy as np
import pytest

from hermes_conformance.oracle import complex_step
from hermes_conformance.oracle.tracing_arrays import TINY, make_dual
from hermes_numpy import ops
from hermes_numpy.loss import log_sigmoid
from tests.conformance.support import find_case


@pytest.mark.parametrize("name", ["default/hot", "ffn.activation=gelu/hot", "every dropout/hot"])
def test_a_complex_step_is_the_limit_of_five_point_differences(name):
    case = find_case(name)
    direction = complex_step.draw_direction(case, 0)
    _, exact = complex_step.compute_loss_and_slope(
        case.spec, case.params, direction, case.batch, case.dropout
    )
    step = 3e-5

    def loss(s):
        moved = {n: w + s * direction[n] for n, w in case.params.items()}
        return complex_step.ORACLE.build(case.spec, moved).loss(case.batch, case.dropout)

    five = 8 * (loss(step) - loss(-step)) - (loss(2 * step) - loss(-2 * step))
    assert five / (12 * step) == pytest.approx(exact, rel=1e-8)


@pytest.mark.parametrize(("at", "direction", "slope"), [(2.0, 3.0, 3.0), (-2.0, 3.0, 0.0)])
def test_the_complex_step_goes_through_relu(at, direction, slope):
    y = ops.relu(make_dual(np.array([at]), np.array([direction])))
    assert y.imag[0] / TINY == slope


@pytest.mark.parametrize("direction", [3.0, -3.0])
def test_the_slope_of_relu_at_0_is_0(direction):
    x = make_dual(np.array([0.0]), np.array([direction]))
    for zero in (x, x + x * x):  # the square of a step is too small to count
        assert ops.relu(zero).imag[0] == 0


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_the_slope_of_log_sigmoid_at_0_is_a_half(direction):
    """In both directions: an implementation with a kink at 0 would show in one of them."""
    got = np.asarray(log_sigmoid(make_dual(np.zeros(1), np.array([direction]))))
    assert got.imag / TINY == pytest.approx(direction / 2, rel=1e-15)
    assert got.real == pytest.approx(-np.log(2), rel=1e-15)

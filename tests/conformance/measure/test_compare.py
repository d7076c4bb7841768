"""Comparisons of arrays."""

import math

import numpy as np
import pytest

from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import compare_bits, compare_relative, compare_values

BOUND = tolerance.LOGITS_64


def test_relative_takes_the_worst_element_and_never_forgives_a_nan():
    expected = np.array([[1.0, -1.0], [1.0, -1.0]])
    got = expected.copy()
    got[1, 0] += 1e-9
    measurement = compare_relative("x", got, expected, BOUND)
    assert measurement.index == (1, 0)
    assert measurement.error == pytest.approx(1e-9, rel=1e-6)
    assert measurement.ratio > 1
    got[0, 0] = np.nan
    assert compare_relative("x", got, expected, BOUND).ratio == math.inf
    assert compare_relative("x", got[:1], expected, BOUND).ratio == math.inf
    assert compare_relative("x", expected * 0, expected * 0, BOUND).ratio == 0


def test_bits_see_one_bit_a_dtype_and_a_shape():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert compare_bits("x", x, x.copy(), tolerance.EXACT).ratio == 0
    assert compare_bits("x", np.nextafter(x, 9), x, tolerance.EXACT).error == 6
    assert compare_bits("x", x.astype(np.float64), x, tolerance.EXACT).ratio == math.inf
    assert compare_bits("x", x.ravel(), x, tolerance.EXACT).ratio == math.inf


def test_values_that_differ_are_beyond_any_bound():
    assert compare_values("x", 1, 2, tolerance.EXACT).ratio == math.inf
    assert compare_values("x", 2, 2, tolerance.EXACT).ratio == 0

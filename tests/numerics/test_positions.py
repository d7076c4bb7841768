"""Tables of positions against their formulas, written out element by element."""

import math

import numpy as np
import pytest

from hermes.numerics.positions import (
    alibi_slopes,
    rotary_frequencies,
    rotary_table,
    segment_positions,
    yarn_range,
)
from hermes.spec import LinearScaling, Llama3Scaling, Rope, YarnScaling


def test_slopes_of_a_power_of_two_are_a_geometric_sequence():
    assert alibi_slopes(8).tolist() == [2.0**-n for n in range(1, 9)]


def test_slopes_of_other_numbers_fill_in_every_other_one_of_the_next_power():
    assert alibi_slopes(6).tolist() == [*alibi_slopes(4), *alibi_slopes(8)[[0, 2]]]


def test_a_position_turns_each_pair_by_its_angle():
    cos, sin = rotary_table(Rope(theta=100.0), size=6, length=5)
    assert cos.shape == sin.shape == (5, 3)
    for position in range(5):
        for pair in range(3):
            angle = position * 100.0 ** (-2 * pair / 6)
            assert cos[position, pair] == pytest.approx(math.cos(angle), abs=1e-15)
            assert sin[position, pair] == pytest.approx(math.sin(angle), abs=1e-15)


def test_linear_scaling_divides_every_frequency():
    plain, scaled = (rotary_frequencies(Rope(scaling=s), 8)[0] for s in (None, LinearScaling(4)))
    np.testing.assert_allclose(scaled, plain / 4, rtol=1e-15)


def test_llama3_keeps_high_frequencies_and_divides_low_ones():
    scaling = Llama3Scaling(8.0, 1.0, 4.0, original_max_seq_len=64)
    plain, _ = rotary_frequencies(Rope(), 16)
    scaled, magnitude = rotary_frequencies(Rope(scaling=scaling), 16)
    rotations = 64 * plain / (2 * math.pi)
    assert magnitude == 1.0
    np.testing.assert_array_equal(scaled[rotations >= 4], plain[rotations >= 4])
    np.testing.assert_allclose(scaled[rotations <= 1], plain[rotations <= 1] / 8, rtol=1e-15)


def test_yarn_ramps_between_its_two_pairs():
    scaling = YarnScaling(4.0, original_max_seq_len=4096)
    low, high = yarn_range(scaling, 10_000.0, 64)
    plain, _ = rotary_frequencies(Rope(), 64)
    scaled, magnitude = rotary_frequencies(Rope(scaling=scaling), 64)
    assert 0 < low < high < 32
    np.testing.assert_array_equal(scaled[: low + 1], plain[: low + 1])
    np.testing.assert_array_equal(scaled[high:], plain[high:] / 4)
    assert magnitude == pytest.approx(0.1 * math.log(4) + 1, rel=1e-15)


def test_positions_begin_again_in_each_document():
    segments = np.array([[0, 0, 1, 1, 1, 0], [3, 3, 3, 3, 3, 3]])
    expected = [[0, 1, 0, 1, 2, 0], [0, 1, 2, 3, 4, 5]]
    assert segment_positions(segments).tolist() == expected

"""Tables of positions against their formulas, written out element by element."""

import math

import numpy as np
import pytest

from hermes.numerics.positions import (
    alibi_slopes,
    choose_table_length,
    rotary_frequencies,
    rotary_table,
    segment_positions,
    yarn_range,
)
from hermes.spec import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    YarnScaling,
)


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


def test_yarns_magnitude_and_its_ramp_can_be_given():
    given = YarnScaling(4.0, 64, 4.0, 1.0, attention_factor=1.25, truncate=False)
    low, high = yarn_range(given, 100.0, 6)
    assert low == pytest.approx(6 * math.log(64 / (8 * math.pi)) / (2 * math.log(100)))
    assert high == pytest.approx(6 * math.log(64 / (2 * math.pi)) / (2 * math.log(100)))
    scaled, magnitude = rotary_frequencies(Rope(100.0, given), 6)
    plain, _ = rotary_frequencies(Rope(100.0), 6)
    ramp = (1 - low) / (high - low)
    assert magnitude == 1.25
    assert scaled[1] == pytest.approx(plain[1] * (1 - ramp) + plain[1] / 4 * ramp, rel=1e-15)


def test_longrope_has_a_list_for_short_lengths_and_one_for_long_ones():
    scaling = LongRopeScaling((1.0, 2.0), (4.0, 8.0), 16)
    rope = Rope(scaling=scaling.resolve(64))
    plain, _ = rotary_frequencies(Rope(), 4)
    for length, factors in ((16, [1, 2]), (17, [4, 8])):
        scaled, magnitude = rotary_frequencies(rope, 4, length)
        np.testing.assert_allclose(scaled, plain / factors, rtol=1e-15)
        assert magnitude == pytest.approx(math.sqrt(1 + math.log(4) / math.log(16)))
    assert scaling.resolve(8).attention_factor == 1.0
    assert [choose_table_length(rope, n, 64) for n in (1, 16, 17, 64)] == [16, 16, 64, 64]


def test_dynamic_scaling_grows_with_the_length():
    rope = Rope(100.0, DynamicScaling(3.0, 16))
    plain, _ = rotary_frequencies(Rope(100.0), 6)
    np.testing.assert_array_equal(rotary_frequencies(rope, 6, 16)[0], plain)
    theta = 100.0 * (1 + 3 * (40 / 16 - 1)) ** (6 / 4)
    np.testing.assert_allclose(
        rotary_frequencies(rope, 6, 40)[0], rotary_frequencies(Rope(theta), 6)[0], rtol=1e-15
    )
    assert [choose_table_length(rope, n, 64) for n in (1, 16, 17, 40)] == [16, 16, 17, 40]
    assert choose_table_length(Rope(), 5, 64) == 64

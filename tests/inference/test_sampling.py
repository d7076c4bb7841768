"""Sampling: laws of each filter, ties, extremes, and agreement under rounding."""

import numpy as np
import pytest

from hermes.errors import HermesError, NonFinite
from hermes.inference.filters import choose, compute_probabilities
from hermes.inference.sampling import GREEDY, Sampling

LOGITS = np.log(np.array([0.1, 0.4, 0.2, 0.25, 0.05]))


def test_temperature_one_without_filters_is_the_softmax():
    p = compute_probabilities(LOGITS, Sampling(temperature=1.0))
    np.testing.assert_allclose(p, [0.1, 0.4, 0.2, 0.25, 0.05], rtol=1e-14)


def test_temperature_divides_the_logits():
    p = compute_probabilities(LOGITS, Sampling(temperature=0.5))
    squares = np.array([0.1, 0.4, 0.2, 0.25, 0.05]) ** 2
    np.testing.assert_allclose(p, squares / squares.sum(), rtol=1e-13)


def test_top_k_keeps_the_k_likeliest():
    p = compute_probabilities(LOGITS, Sampling(temperature=1.0, top_k=2))
    np.testing.assert_allclose(p, [0, 0.4 / 0.65, 0, 0.25 / 0.65, 0], rtol=1e-13)


def test_top_k_beyond_the_vocabulary_keeps_all():
    p = compute_probabilities(LOGITS, Sampling(temperature=1.0, top_k=99))
    assert (p > 0).all()


def test_top_p_keeps_the_fewest_that_reach_it():
    p = compute_probabilities(LOGITS, Sampling(temperature=1.0, top_p=0.7))
    np.testing.assert_allclose(p, [0, 0.4 / 0.85, 0.2 / 0.85, 0.25 / 0.85, 0], rtol=1e-13)


def test_a_tiny_top_p_keeps_the_likeliest():
    assert compute_probabilities(LOGITS, Sampling(temperature=1.0, top_p=1e-9)).tolist() == [
        0,
        1,
        0,
        0,
        0,
    ]


def test_top_p_works_on_what_top_k_left():
    """Of 0.4 and 0.25 the first is 61.5 %, so 0.6 needs it alone; over all five it would not."""
    p = compute_probabilities(LOGITS, Sampling(temperature=1.0, top_k=2, top_p=0.6))
    assert p.tolist() == [0, 1, 0, 0, 0]


def test_min_p_is_relative_to_the_likeliest():
    p = compute_probabilities(LOGITS, Sampling(temperature=1.0, min_p=0.5))
    assert np.flatnonzero(p).tolist() == [1, 2, 3]


def test_greedy_takes_the_lowest_id_of_equals():
    assert choose(np.array([1.0, 3.0, 3.0, 2.0]), GREEDY, 0.99) == 1


def test_equal_logits_rank_by_id_under_top_k():
    p = compute_probabilities(np.array([2.0, 2.0, 2.0, 1.0]), Sampling(temperature=1.0, top_k=2))
    assert p.tolist() == [0.5, 0.5, 0, 0]


def test_the_choice_walks_the_probabilities_by_id():
    one = Sampling(temperature=1.0)
    assert [choose(LOGITS, one, u) for u in (0.0, 0.09, 0.11, 0.49, 0.51, 0.71, 0.96)] == [
        0, 0, 1, 1, 2, 3, 4,
    ]  # fmt: skip


def test_the_choice_never_falls_on_a_token_that_was_filtered_out():
    few = Sampling(temperature=1.0, top_k=2)
    for u in (0.0, 0.5, 1 - 2**-53):
        assert choose(LOGITS, few, u) in (1, 3)
    assert choose(LOGITS, few, 1 - 2**-53) == 3


def test_frequencies_follow_the_probabilities():
    uniforms = (np.arange(20_000) + 0.5) / 20_000
    sampling = Sampling(temperature=0.7, top_k=4)
    counts = np.bincount([choose(LOGITS, sampling, u) for u in uniforms], minlength=5)
    np.testing.assert_allclose(counts / 20_000, compute_probabilities(LOGITS, sampling), atol=1e-4)


def test_logits_that_differ_by_rounding_give_the_same_choices():
    random = np.random.default_rng(7)
    sampling = Sampling(temperature=0.9, top_k=50, top_p=0.95)
    same = 0
    for _ in range(500):
        logits = random.normal(size=400).astype(np.float32)
        other = logits + random.normal(size=400).astype(np.float32) * np.float32(1e-6)
        u = random.random()
        same += choose(logits, sampling, u) == choose(other, sampling, u)
    assert same >= 499


def test_nearly_equal_tokens_that_swap_ranks_keep_their_places():
    a = np.array([1.0, 1.0 + 1e-7, -3.0])
    b = np.array([1.0 + 1e-7, 1.0, -3.0])
    for u in (0.1, 0.3, 0.6, 0.8):
        one = Sampling(temperature=1.0)
        assert choose(a, one, u) == choose(b, one, u)


def test_a_temperature_next_to_zero_is_greedy_and_does_not_warn():
    with np.errstate(all="raise", under="ignore", over="raise"):
        assert choose(LOGITS, Sampling(temperature=1e-308), 0.999) == 1


def test_minus_infinity_forbids_a_token():
    logits = np.array([0.0, -np.inf, 0.0])
    assert compute_probabilities(logits, Sampling(temperature=1.0)).tolist() == [0.5, 0, 0.5]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_not_numbers_are_refused(bad, temperature):
    with pytest.raises(NonFinite, match="the model's logits are not numbers"):
        choose(np.array([0.0, bad]), Sampling(temperature=temperature), 0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": -0.5}, "temperature must be at least 0, got -0.5"),
        ({"temperature": float("nan")}, "temperature must be at least 0, got nan"),
        ({"top_k": -1}, "top_k must be at least 0, got -1"),
        ({"top_p": 0.0}, "top_p must be above 0 and at most 1, got 0.0"),
        ({"top_p": 1.5}, "top_p must be above 0 and at most 1, got 1.5"),
        ({"min_p": 2.0}, "min_p must be from 0 to 1, got 2.0"),
    ],
)
def test_settings_outside_their_range_are_refused(options, message):
    with pytest.raises(HermesError) as error:
        Sampling(**options)
    assert str(error.value) == message

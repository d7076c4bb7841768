"""Penalties, repetitions and banned sequences: what the tokens so far do to the logits."""

import numpy as np
import pytest

from hermes.errors import HermesError
from hermes.inference.sampling import Sampling
from hermes.inference.token_history import TokenHistory

V = 12


def adjust(sampling, prompt, text=(), x=None):
    history = TokenHistory(sampling, prompt)
    for token in text:
        history.append(token)
    x = np.zeros(V) if x is None else np.array(x, float)
    history.adjust(x)
    return x


def test_repetition_divides_what_is_positive_and_multiplies_the_rest():
    x = adjust(Sampling(repetition_penalty=2.0), [0, 1], [2], [4, -4, 6, 8, *[0] * 8])
    assert x[:4].tolist() == [2, -8, 3, 8]


def test_presence_and_frequency_count_the_text_alone():
    x = adjust(Sampling(presence_penalty=0.5, frequency_penalty=0.25), [1, 1, 2], [2, 3, 3])
    assert x[:4].tolist() == [0, 0, -0.75, -1.0]


def test_a_penalty_below_0_invites_repetition():
    assert adjust(Sampling(presence_penalty=-1.0), [1], [2])[2] == 1.0


def test_a_bias_is_added_and_one_beyond_the_vocabulary_passed_over():
    assert adjust(Sampling(logit_bias={3: 1.5, 99: 1.0}), [1])[3] == 1.5


def test_no_ngram_comes_twice():
    x = adjust(Sampling(no_repeat_ngram=3), [1, 2, 3, 1], [2])
    assert np.flatnonzero(np.isinf(x)).tolist() == [3]
    assert np.flatnonzero(np.isinf(adjust(Sampling(no_repeat_ngram=1), [1, 4]))).tolist() == [1, 4]


def test_a_banned_sequence_is_stopped_at_its_last_token():
    sampling = Sampling(banned=((5,), (1, 2, 3)))
    assert np.flatnonzero(np.isinf(adjust(sampling, [1, 2]))).tolist() == [3, 5]
    assert np.flatnonzero(np.isinf(adjust(sampling, [2, 2]))).tolist() == [5]
    assert np.flatnonzero(np.isinf(adjust(sampling, [2]))).tolist() == [5]


def penalize_by_definition(sampling, tokens):
    """DRY as it is described: for each earlier place, count back while tokens are the same."""
    tokens = tokens[-sampling.dry_range :] if sampling.dry_range else tokens
    longest = {}
    for end in range(len(tokens) - 1):
        length = 0
        while (
            length <= end
            and tokens[end - length] == tokens[len(tokens) - 1 - length]
            and tokens[end - length] not in sampling.dry_breakers
        ):
            length += 1
        following = tokens[end + 1]
        if length >= sampling.dry_allowed_length and following not in sampling.dry_breakers:
            longest[following] = max(longest.get(following, 0), length)
    x = np.zeros(V)
    for token, length in longest.items():
        exponent = length - sampling.dry_allowed_length
        x[token] -= sampling.dry_multiplier * sampling.dry_base**exponent
    return x


@pytest.mark.parametrize("breakers", [(), (2,)])
@pytest.mark.parametrize("reach", [0, 20])
@pytest.mark.parametrize("allowed", [1, 2, 4])
def test_dry_is_what_it_is_described_to_be(allowed, reach, breakers):
    sampling = Sampling(
        dry_multiplier=0.8, dry_allowed_length=allowed, dry_range=reach, dry_breakers=breakers
    )
    random = np.random.default_rng(allowed)
    tokens = random.choice(3, 90, p=[0.6, 0.35, 0.05]).tolist()
    history = TokenHistory(sampling, tokens[:30])
    seen = 0
    for end in range(30, 90):
        x = np.zeros(V)
        history.adjust(x)
        expected = penalize_by_definition(sampling, tokens[:end])
        np.testing.assert_allclose(x, expected, rtol=1e-12)
        seen += int((expected < 0).any())
        history.append(tokens[end])
    assert seen > 10


def test_an_endless_repetition_leaves_a_finite_logit():
    assert np.isfinite(adjust(Sampling(dry_multiplier=1.0, dry_base=4.0), [1] * 2000)).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"typical_p": 0}, "typical_p must be above 0 and at most 1, got 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty must be above 0, got 0.0"),
        ({"presence_penalty": 3.0}, "presence_penalty must be from -2 to 2, got 3.0"),
        ({"dry_base": 0.5}, "dry_base must be at least 1, got 0.5"),
        ({"dry_allowed_length": 0}, "dry_allowed_length must be at least 1, got 0"),
        ({"banned": ((),)}, "banned has a sequence without a token"),
        ({"xtc_threshold": 2}, "xtc_threshold must be from 0 to 1, got 2"),
        ({"logit_bias": {"a": 1}}, "a token of logit_bias must be a whole number, got 'a'"),
        (
            {"logit_bias": {-1: 1.0}},
            "logit_bias must give numbers to ids from 0 on, got -1: 1.0",
        ),
    ],
)
def test_a_setting_out_of_range_is_refused_with_its_range(settings, message):
    with pytest.raises(HermesError) as refused:
        Sampling(**settings)
    assert str(refused.value) == message

"""Batches of pairs, and the metrics that are reported of them."""

from dataclasses import replace

import numpy as np
import pytest

from hermes.data import Cursor
from hermes.data.encoded_pairs import (
    encode_pair,
)
from hermes.data.preference_dataset import PreferenceDataset, compute_preference_metrics
from hermes.errors import HermesError
from hermes.interface import IGNORE, Batch, PreferencePairs, check_batch
from hermes.recipe import Preference, Recipe
from tests.data.support import encoder, pair
from tests.finetuning.support import (
    some_pairs,
)


def made_data(count=8, **settings):
    some = [encode_pair(pair(record), encoder()) for record in some_pairs(count)]
    rule = settings.pop("rule", Preference())
    return PreferenceDataset(some, **{"max_len": 64, "vocab_size": 300, "rule": rule, **settings})


def test_the_chosen_are_the_first_half_and_only_their_completions_count():
    data = made_data()
    data.reference = np.arange(16.0).reshape(8, 2)
    taken = data.select_pairs(Cursor(), 6)
    batch, _ = data.draw_batch(Cursor(), samples=6, micro_batch=4, accum=2)
    assert batch.tokens.shape[:2] == (2, 8)
    assert batch.num_terms == 6
    chosen, rejected = 2 * taken, 2 * taken + 1
    np.testing.assert_array_equal(batch.pairs.reference[0], [*chosen[:4], *rejected[:4]])
    np.testing.assert_array_equal(
        batch.pairs.reference[1], [*chosen[4:], 0, 0, *rejected[4:], 0, 0]
    )
    assert (batch.targets[1, [2, 3, 6, 7]] == IGNORE).all()
    some = [encode_pair(pair(record), encoder()) for record in some_pairs()]
    counts = (batch.targets[0, :4] != IGNORE).sum(-1)
    assert counts.tolist() == [int(some[i].chosen.loss_mask.sum()) for i in taken[:4]]


def test_what_is_reported_of_pairs_by_hand():
    """Two pairs: h = 1 - (-2) = 3 and -1 - 1 = -2, and a place without a pair."""
    targets = np.zeros((1, 6, 4), np.int32)
    targets[0, [2, 5]] = IGNORE
    reference = np.array([[-10.0, -10, 0, -10, -10, 0]])
    sums = np.array([[-9.0, -11, 0, -12, -9, 0]])
    tokens, rows = np.zeros_like(targets), np.zeros((1, 6), np.uint32)
    batch = Batch(tokens, targets, rows, pairs=PreferencePairs(reference, Preference(beta=0.5)))
    assert compute_preference_metrics(batch, sums) == {
        "reward_margin": 0.25,
        "accuracy": 0.5,
        "chosen_reward": 0.0,
        "rejected_reward": -0.25,
        "chosen_logprob": -10.0,
        "rejected_logprob": -10.5,
        "kl": -0.25,
    }
    simpo = replace(batch, pairs=PreferencePairs(0 * reference, Preference("simpo", beta=2.0)))
    assert compute_preference_metrics(simpo, sums)["chosen_reward"] == pytest.approx(
        2 * -(9 + 11) / 2 / 4
    )
    assert "kl" not in compute_preference_metrics(simpo, sums)


def test_pairs_have_weights_in_training_and_none_in_validation():
    some = [replace(encode_pair(pair(record), encoder()), weight=1 + i % 3)
            for i, record in enumerate(some_pairs(8))]  # fmt: skip
    data = PreferenceDataset(some, max_len=64, vocab_size=300, rule=Preference(), val_fraction=0.25)
    taken = data.select_pairs(Cursor(), 6)
    batch, _ = data.draw_batch(Cursor(), samples=6, micro_batch=4, accum=2)
    own = [some[i].weight for i in taken]
    np.testing.assert_array_equal(batch.weights[0], [*own[:4]] * 2)
    np.testing.assert_array_equal(batch.weights[1], [*own[4:], 0, 0] * 2)
    assert batch.counts.divisor == batch.own_counts.divisor == sum(own)
    halves = [
        data.draw_batch(Cursor(), samples=6, micro_batch=2, accum=2, rank=r, world_size=2)[0]
        for r in range(2)
    ]
    assert [half.counts.divisor for half in halves] == [sum(own)] * 2
    assert sum(half.own_counts.divisor for half in halves) == sum(own)
    assert all(one.weights is None for one in data.iterate_validation(2))
    assert made_data().draw_batch(Cursor(), samples=2, micro_batch=2, accum=1)[0].weights is None
    unweighted = PreferenceDataset(
        [replace(one, weight=1.0) for one in some], max_len=64, vocab_size=300, rule=Preference()
    )
    assert data.fingerprint != unweighted.fingerprint


def test_a_batchs_weights_are_of_pairs():
    recipe = Recipe(objective="preference")
    batch, _ = made_data().draw_batch(Cursor(), samples=4, micro_batch=4, accum=1)
    check_batch(replace(batch, weights=np.ones((1, 8), np.float32)), recipe)
    with pytest.raises(HermesError, match="belong to its targets, one each, or pairs' rows"):
        check_batch(replace(batch, weights=np.ones(batch.targets.shape, np.float32)), recipe)
    with pytest.raises(HermesError, match="both rows of a pair must have the same weight"):
        check_batch(replace(batch, weights=np.arange(8, dtype=np.float32)[None]), recipe)

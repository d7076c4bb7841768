"""Filters in O(V): the same tokens as sorting gives, whatever the shape of the distribution."""

import time
from functools import partial

import numpy as np
import pytest

from hermes.errors import HermesError, NonFinite
from hermes.inference.filters import (
    Candidates,
    draw_candidate,
    filter_tokens,
    select_largest,
    select_mass,
)
from hermes.inference.sampler import Sampler
from hermes.inference.sampling import GREEDY, Sampling
from tests.waiting import wait_until

SHAPES = {
    "normal": lambda random, n: random.normal(size=n) * 3,
    "flat": lambda random, n: random.normal(size=n) * 1e-9,
    "equal": lambda random, n: np.zeros(n),
    "coarse": lambda random, n: np.round(random.normal(size=n) * 2) / 2,
    "peaked": lambda random, n: np.where(np.arange(n) == n // 3, 40.0, random.normal(size=n)),
    "heavy": lambda random, n: random.standard_cauchy(size=n),
}


@pytest.fixture(params=SHAPES)
def logits(request):
    return SHAPES[request.param](np.random.default_rng(5), 20_011)


@pytest.mark.parametrize("k", [1, 2, 50, 2000, 15_000, 20_011, 99_999])
def test_the_largest_are_those_of_a_stable_sort(logits, k):
    expected = np.sort(np.argsort(-logits, kind="stable")[:k])
    assert select_largest(logits, k).tolist() == expected.tolist()


@pytest.mark.parametrize("share", [1e-12, 0.1, 0.5, 0.93, 1.0])
def test_the_mass_is_that_of_a_stable_sort(logits, share):
    p = np.exp(logits - logits.max())
    order = np.argsort(-logits, kind="stable")
    sums = np.cumsum(p[order])
    count = int(np.searchsorted(sums, share * sums[-1] * (1 - 1e-12))) + 1
    found = select_mass(logits, p, share * sums[-1] * (1 - 1e-12))
    # Sums in another order may be a last bit apart where shares are equal to it.
    assert abs(len(found) - min(count, len(p))) <= 1
    smaller = min(len(found), count)
    assert set(order[: smaller - 1]) <= set(found)


def test_a_draw_from_blocks_is_a_draw_from_all(logits):
    p = np.exp(logits - logits.max())
    edges = np.cumsum(p) / p.sum()
    for uniform in (0.0, 0.1, 0.5, 0.999, 1 - 2**-53):
        found = draw_candidate(Candidates(np.arange(len(p)), p, logits), uniform)
        assert p[found] > 0
        assert edges[found] >= uniform - 1e-9
        assert found == 0 or edges[found - 1] <= uniform + 1e-9


def test_typical_p_prefers_the_usual_surprise():
    """One likely token and many unlikely ones: the entropy is near the unlikely ones' surprise."""
    x = np.log(np.array([0.3, *[0.7 / 70] * 70]))
    kept = filter_tokens(x.copy(), Sampling(temperature=1.0, typical_p=0.5))
    assert 0 not in kept.ids
    assert len(kept.ids) == 50  # of 0.01 each


def test_xtc_leaves_the_least_of_the_probable_tokens_and_what_ends_the_text():
    x = np.log(np.array([0.4, 0.3, 0.2, 0.1]))
    s = Sampling(temperature=1.0, xtc_probability=0.5, xtc_threshold=0.15)
    assert filter_tokens(x.copy(), s, 0.49).ids.tolist() == [2, 3]
    assert filter_tokens(x.copy(), s, 0.5).ids.tolist() == [0, 1, 2, 3]
    assert filter_tokens(x.copy(), s, 0.49, endings=[0]).ids.tolist() == [0, 2, 3]
    lone = Sampling(temperature=1.0, xtc_probability=1.0, xtc_threshold=0.35)
    assert filter_tokens(x.copy(), lone, 0.0).ids.tolist() == [0, 1, 2, 3]


def test_a_vocabulary_without_a_possible_token_is_refused():
    with pytest.raises(HermesError, match="no token may come next"):
        filter_tokens(np.full(5, -np.inf), GREEDY)


def test_logits_that_are_not_numbers_are_refused():
    for bad in (np.nan, np.inf):
        with pytest.raises(NonFinite, match="the model's logits are not numbers"):
            Sampler(GREEDY, [1]).choose(np.array([0.0, bad]))


def test_every_filter_at_once_costs_little_more_than_reading_the_logits():
    """A full sort of this vocabulary takes over ten times as long as all filters do.

    The stable one, which is as slow on every processor.
    """
    random = np.random.default_rng(0)
    rows = (random.normal(size=(4, 151_936)) * 3).astype(np.float32)
    sampling = Sampling(
        top_k=50, top_p=0.95, min_p=0.02, typical_p=0.95, repetition_penalty=1.1,
        presence_penalty=0.5, frequency_penalty=0.5, no_repeat_ngram=4, dry_multiplier=0.8,
        xtc_probability=0.5, logit_bias={7: 1.0}, banned=((11,), (12, 13)),
    )  # fmt: skip
    sampler = Sampler(sampling, random.integers(0, 151_936, 1000).tolist())

    def find_fastest(call):
        times = []
        for turn in range(12):
            start = time.perf_counter()
            call(rows[turn % 4])
            times.append(time.perf_counter() - start)
        return min(times)

    sort = partial(np.argsort, kind="stable")
    wait_until(lambda: find_fastest(sampler.choose) < find_fastest(sort) / 5)


def sort_and_filter(x, sampling):
    """What stays, by sorting all: the definition of steps 8 and 10 to 12."""
    logs = (x - x.max()) / sampling.temperature
    ids = np.flatnonzero(np.exp(logs) > 0)

    def take(scores, share):
        p = np.exp(logs[ids])
        order = np.argsort(-scores, kind="stable")
        count = int(np.searchsorted(np.cumsum(p[order]), share * p.sum())) + 1
        return np.sort(ids[order[:count]])

    if sampling.top_p < 1:
        ids = take(logs[ids], sampling.top_p)
    ids = ids[np.exp(logs[ids]) >= sampling.min_p]
    if sampling.typical_p < 1:
        p = np.exp(logs[ids])
        entropy = -float((p * logs[ids]).sum() / p.sum())
        ids = take(-np.abs(-logs[ids] - entropy), sampling.typical_p)
    return ids


@pytest.mark.parametrize("typical_p", [1.0, 0.05, 0.5, 0.95, 0.999])
@pytest.mark.parametrize("top_p", [1.0, 0.01, 0.5, 0.97])
@pytest.mark.parametrize("min_p", [0.0, 0.01, 0.9])
def test_filters_leave_what_sorting_all_leaves(top_p, min_p, typical_p):
    """They look at the probable tokens first, and at min_p's before top_p's; peaks, flat and
    banned logits included."""
    random = np.random.default_rng(int(top_p * 100 + min_p * 1e4 + typical_p * 1e6))
    settings = {"top_p": top_p, "min_p": min_p, "typical_p": typical_p}
    for number in range(16):
        x = random.normal(size=int(random.integers(2, 9000))) * random.choice([0.01, 1, 3, 8])
        if number % 3 == 0:
            x[random.integers(len(x))] += random.choice([2, 10, 40])
        if number % 5 == 0:
            x[random.random(len(x)) < 0.5] = -np.inf
            x[0] = 0.0
        sampling = Sampling(temperature=float(random.choice([0.7, 1.0])), **settings)
        found = filter_tokens(x.copy(), sampling)
        np.testing.assert_array_equal(found.ids[found.p > 0], sort_and_filter(x, sampling))
        p = np.exp((x[found.ids] - x.max()) / sampling.temperature)
        np.testing.assert_allclose(found.p, p, rtol=1e-12)


def test_min_p_and_top_p_leave_the_same_in_either_order_where_typical_p_follows():
    """min_p alone leaves two tokens, top_p one of them, and typical_p must not see the other."""
    x = np.zeros(40)
    x[[3, 7]] = [2.0, 1.95]
    sampling = Sampling(temperature=1.0, top_p=0.01, min_p=0.9, typical_p=0.9)
    assert filter_tokens(x, sampling).ids.tolist() == [3]

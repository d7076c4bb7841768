"""Which tokens may come next, and which one does: filters of one row of logits, in O(V).

In float64 on the host, the same for all backends. Nothing sorts the vocabulary: the k greatest are
found by maxima of strided groups, and a share of the probability by histograms.
"""

import threading
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hermes.errors import HermesError, NonFinite
from hermes.inference.sampling import Sampling

__all__ = [
    "Candidates",
    "choose",
    "compute_probabilities",
    "draw_candidate",
    "filter_tokens",
    "select_largest",
    "select_mass",
]

Floats = NDArray[np.float64]
Ids = NDArray[np.intp]

FEW = 2048  # elements that are sorted rather than counted in bins
BINS = 2048
GROUPS_FOR_ONE = 4  # groups for each of the k greatest: then few others pass their bound
BLOCK = 512
LOWEST = -1e4  # of a logarithm: its exponential is 0
SMALLEST = float(np.finfo(np.float64).tiny)  # what is less has no probability


_BUFFERS = threading.local()


@dataclass(frozen=True)
class Candidates:
    """The tokens that may come next.

    ids: ascending, (N,). p: their shares, which need no sum; of the most probable one 1. logs:
    their logarithms, where a filter needs them.
    """

    ids: Ids
    p: Floats
    logs: Floats

    def keep(self, which: Ids) -> "Candidates":
        """The candidates at these places, which ascend."""
        return Candidates(self.ids[which], self.p[which], self.logs[which])


def compute_probabilities(logits: NDArray[np.floating], sampling: Sampling) -> Floats:
    """Compute each token's probability after all filters. (V,) -> (V,), sums to 1.

    Without what depends on the tokens so far. Raises as `filter_tokens`.
    """
    kept = filter_tokens(logits.astype(np.float64), sampling)
    p = np.zeros(len(logits))
    p[kept.ids] = kept.p / kept.p.sum()
    return p


def choose(logits: NDArray[np.floating], sampling: Sampling, uniform: float) -> int:
    """Sample the next token by the one uniform number it needs, from [0, 1). (V,) -> id"""
    return draw_candidate(filter_tokens(logits.astype(np.float64), sampling), uniform)


def filter_tokens(
    x: Floats,
    sampling: Sampling,
    xtc_uniform: float | None = None,
    endings: Collection[int] = (),
) -> Candidates:
    """Apply temperature and all filters to logits that hold what depends on earlier tokens. (V,)

    Overwrites x. xtc_uniform: decides whether XTC acts, None for never. endings: ids that XTC does
    not remove. Raises NonFinite where a logit is NaN or the greatest is infinite, and HermesError
    where every token is banned.
    """
    top = float(x.max())  # NaN if any is
    if top == -np.inf:
        raise HermesError("no token may come next: bans, logit_bias and min_tokens leave none")
    if not np.isfinite(top):
        raise NonFinite("the model's logits are not numbers; its weights may be damaged")
    if sampling.temperature == 0:
        return Candidates(np.array([int(x.argmax())]), np.ones(1), np.zeros(1))
    neutral = sampling.top_p == 1 and sampling.min_p == 0 and sampling.typical_p == 1
    # A temperature near 0 overflows the quotient to -inf, whose exponential, 0, is right.
    with np.errstate(over="ignore"):
        if 0 < sampling.top_k < len(x):
            ids = select_largest(x, sampling.top_k)
            logs = (x[ids] - top) / sampling.temperature
            kept = Candidates(ids, np.exp(logs), logs)
        else:
            x -= top  # in place: fresh pages of memory cost more than the arithmetic
            x /= sampling.temperature
            p = np.exp(x, out=x if neutral else _get_scratch(len(x)))
            kept = Candidates(_get_all_ids(len(x)), p, x)
    if not neutral:
        kept = _keep_share(kept, sampling)
    if xtc_uniform is not None and xtc_uniform < sampling.xtc_probability:
        return _drop_top_choices(kept, sampling.xtc_threshold, endings)
    return kept


def _keep_share(kept: Candidates, sampling: Sampling) -> Candidates:
    """Apply top_p, min_p and typical_p; each looks at no more than those before it left.

    min_p acts first: it and top_p both leave the most probable tokens down to some place, so that
    what both leave does not depend on the order, once top_p's goal is known.
    """
    goal = sampling.top_p * float(kept.p.sum()) if sampling.top_p < 1 else 0.0
    if sampling.min_p > 0:
        kept = kept.keep(np.flatnonzero(kept.p >= sampling.min_p))  # the greatest p is 1
    if sampling.top_p < 1:
        kept = _keep_most_probable(kept, goal)
    if sampling.typical_p < 1:
        kept = _keep_typical(kept, sampling.typical_p)
    return kept


def _find_bounds(count: int, rest: float) -> list[float]:
    """Probabilities below which there may be nothing to look at: one that leaves few, a safe one.

    rest: what the share leaves out of `count` tokens. Those below the safe one have together less
    than half of it.
    """
    bounds = [max(rest / (2 * n), SMALLEST) for n in (FEW, count)]
    return bounds if count > FEW else bounds[1:]


def _keep_most_probable(kept: Candidates, goal: float) -> Candidates:
    rest = float(kept.p.sum()) - goal
    for bound in _find_bounds(len(kept.p), rest):
        which = np.flatnonzero(kept.p >= bound)
        shares = kept.p[which]
        if shares.sum() >= goal:
            return kept.keep(which[select_mass(kept.logs[which], shares, goal)])
    return kept.keep(np.flatnonzero(kept.p >= SMALLEST))  # min_p has left less than the goal


def _keep_typical(kept: Candidates, share: float) -> Candidates:
    """Looks at the probable ones first.

    That is enough if they have the share, and none of the others is nearer to the entropy than the
    farthest token that was taken.
    """
    p, logs = kept.p, kept.logs
    if logs.min() < LOWEST:
        logs = np.maximum(logs, LOWEST)  # 0 times -inf is no number
    total = float(p.sum())
    goal = share * total
    # -|surprise - entropy| = -|log p - sum(p log p)|, where the logarithm of the total cancels.
    # einsum, as the threads of a BLAS cost more than they gain here.
    mean = float(np.einsum("i,i->", p, logs)) / total
    for bound in _find_bounds(len(p), total - goal):
        which = np.flatnonzero(p >= bound)
        shares = p[which]
        if shares.sum() < goal:
            continue
        nearness = _measure_nearness(logs[which], mean)
        taken = select_mass(nearness, shares, goal)
        if np.log(bound) - mean < nearness[taken].min():
            return kept.keep(which[taken])
    which = np.flatnonzero(p >= SMALLEST)
    return kept.keep(which[select_mass(_measure_nearness(logs[which], mean), p[which], goal)])


def _measure_nearness(logs: Floats, mean: float) -> Floats:
    """How near each is to the mean, the nearest 0; overwrites `logs`."""
    logs -= mean
    np.abs(logs, out=logs)
    return np.negative(logs, out=logs)


def _get_scratch(size: int) -> Floats:
    """A buffer of this thread for what one choice needs: fresh pages take longer than its use."""
    found: Floats | None = getattr(_BUFFERS, "scratch", None)
    if found is None or len(found) != size:
        found = _BUFFERS.scratch = np.empty(size)
    return found


def _get_all_ids(size: int) -> Ids:
    """The ids below `size`, made once for each thread, which nobody may write to."""
    found: Ids | None = getattr(_BUFFERS, "ids", None)
    if found is None or len(found) != size:
        found = _BUFFERS.ids = np.arange(size)
        found.flags.writeable = False
    return found


def _drop_top_choices(kept: Candidates, threshold: float, endings: Collection[int]) -> Candidates:
    above = np.flatnonzero(kept.p >= threshold * kept.p.sum())
    if len(above) < 2:
        return kept
    least = above[len(above) - 1 - int(kept.p[above][::-1].argmin())]  # the higher id of equals
    out = above[(above != least) & ~np.isin(kept.ids[above], list(endings))]
    return kept.keep(np.delete(np.arange(len(kept.ids)), out))


def draw_candidate(kept: Candidates, uniform: float) -> int:
    """Sample by inverting the cumulative distribution at `uniform`, from [0, 1). -> id

    The distribution is cumulated in order of ids, not of probabilities: tokens with nearly equal
    logits then keep their order, and backends whose logits differ by rounding choose the same
    token, unless `uniform` is within that rounding of a boundary.
    """
    p = kept.p
    first = 0
    if len(p) > 4 * BLOCK:  # sums of blocks say in which of them the boundary lies
        whole = len(p) // BLOCK * BLOCK
        edges = np.cumsum(np.append(p[:whole].reshape(-1, BLOCK).sum(axis=1), p[whole:].sum()))
        goal = uniform * edges[-1]
        block = min(int(np.searchsorted(edges, goal, side="right")), len(edges) - 1)
        first = block * BLOCK
        goal -= edges[block - 1] if block else 0.0
        inner = np.cumsum(p[first : first + BLOCK] if first < whole else p[first:])
    else:
        inner = np.cumsum(p)
        goal = uniform * inner[-1]
    chosen = first + int(np.searchsorted(inner, goal, side="right"))
    # For a uniform just below 1, rounding may give an index past the end, or one of probability 0.
    if chosen >= len(p) or p[chosen] <= 0:
        possible = np.flatnonzero(p[: chosen + 1])
        chosen = int(possible[-1] if len(possible) else np.flatnonzero(p)[0])
    return int(kept.ids[chosen])


def select_largest(x: Floats, k: int) -> Ids:
    """The places of the k greatest elements, ascending; the first of equals. (V,) -> (k,)"""
    n = len(x)
    if k >= n:
        return np.arange(n)
    ids = np.arange(n)
    width = n // (GROUPS_FOR_ONE * k)
    if width > 1:
        # k groups have a maximum of at least the k-th greatest maximum: so have k elements.
        groups = x[: n // width * width].reshape(width, -1).max(axis=0)
        bound = np.partition(groups, len(groups) - k)[len(groups) - k]
        ids = np.flatnonzero(x >= bound)
    y = x[ids]
    last = np.partition(y, len(y) - k)[len(y) - k]
    above = y > last
    equals = np.flatnonzero(y == last)[: k - int(above.sum())]
    above[equals] = True
    found: Ids = ids[above]
    return found


def select_mass(score: Floats, p: Floats, goal: float) -> Ids:
    """The places of the fewest elements of the highest scores whose p sum to `goal`, ascending.

    At least one; the first of equal scores. Scores are finite. (N,), (N,) -> (M,)
    """
    taken = np.zeros(len(score), bool)
    places: Ids | None = None  # of those among which the last one taken is; None: all
    reached = 0.0
    while len(score) > FEW:
        low, high = float(score.min()), float(score.max())
        scale = (BINS - 1) / (high - low) if high > low else np.inf
        if not np.isfinite(scale):
            break  # all are equal
        distance = score - high
        distance *= -scale
        bins = distance.astype(np.int32)
        sums = reached + np.cumsum(np.bincount(bins, weights=p, minlength=BINS))
        last = min(int(np.searchsorted(sums, goal)), BINS - 1)
        reached = float(sums[last - 1]) if last else reached
        before, inside = np.flatnonzero(bins < last), np.flatnonzero(bins == last)
        taken[before if places is None else places[before]] = True
        places = inside if places is None else places[inside]
        score, p = score[inside], p[inside]
    order = np.argsort(-score, kind="stable")
    sums = reached + np.cumsum(p[order])
    order = order[: int(np.searchsorted(sums, goal)) + 1]
    taken[order if places is None else places[order]] = True
    return np.flatnonzero(taken)

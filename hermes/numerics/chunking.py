"""Slices of a micro-batch's tokens, whose logits exist one slice at a time; on the host.

The loss of a pair is known once all of its tokens are scored, and no earlier: a slice of whole
pairs is scored once, and a pair that fills more than a slice twice.
"""

import numpy as np
from numpy.typing import NDArray

from hermes.interface import IGNORE

__all__ = ["Span", "group_pairs", "index_pair_targets", "make_spans"]

Span = tuple[int, int]


def index_pair_targets(
    targets: NDArray[np.integer], *, everywhere: bool = False
) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """Where the targets of P pairs count, pair after pair, each chosen before rejected.

    targets (2 P, T): rows 0 to P - 1 were chosen. The places in the flattened rows, (N,), all of
    them if `everywhere` or if none counts; and how many there are up to each pair's end, P numbers.
    """
    pairs, width = len(targets) // 2, targets.shape[1]
    by_pair = targets.reshape(2, pairs, width).swapaxes(0, 1)  # (P, 2, T)
    counted = by_pair != IGNORE
    counted |= everywhere or not counted.any()
    places = np.arange(targets.size).reshape(2, pairs, width).swapaxes(0, 1)
    return places[counted], tuple(np.cumsum(counted.sum((1, 2))).tolist())


def group_pairs(ends: tuple[int, ...], tokens: int) -> list[Span]:
    """The (first, after the last) of runs of pairs with at most so many tokens, or of one pair."""
    groups, first, begin = [], 0, 0
    for pair, end in enumerate(ends):
        if pair > first and end - begin > tokens:
            groups.append((first, pair))
            first, begin = pair, ends[pair - 1]
    return [*groups, (first, len(ends))]


def make_spans(begin: int, end: int, tokens: int) -> list[Span]:
    """The (begin, end) of each slice of so many tokens, at least one."""
    starts = range(begin, max(end, begin + 1), tokens)
    return [(start, min(start + tokens, end)) for start in starts]

"""The blocks of a mixture: of which source each sample of a run is, and its number in that source.

In each block every source has its share, rounded so that the shares of all blocks up to any of them
are right to within one sample; the order inside a block is a keyed permutation. A sample is found
from the seed, the weights and its position alone, and so is its number among the samples of its
source; both ways.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hermes.numerics.randomness import permute

__all__ = [
    "AS_DRAWN",
    "AS_SHUFFLED",
    "BLOCK",
    "Phase",
    "choose_sources",
    "choose_tail",
    "count_taken",
    "find_numbers",
    "find_positions",
]

BLOCK = 4096  # samples
# How a source's samples in a block are numbered: by the permutation, so that they come in any order
# there, as runs did that were begun before there was the other way; or as they come, so that a
# source gives all its windows before it gives one again.
AS_SHUFFLED, AS_DRAWN = 1, 2


@dataclass(frozen=True)
class Phase:
    """The shares of all sources from a sample of the run on, counted from 0."""

    start: int
    shares: tuple[float, ...]

    @property
    def purpose(self) -> str:
        """The random stream of its blocks."""
        return f"mixture/from {self.start}" if self.start else "mixture"


@dataclass(frozen=True)
class _Block:
    """A block's samples. source, number (BLOCK,): of each, in the order in which they come.

    Samples in the order of their sources, and there of their numbers, are `places` (BLOCK,), those
    of source i from begins[i] on; its first has number taken[i].
    """

    source: NDArray[np.int64]
    number: NDArray[np.int64]
    places: NDArray[np.int64]
    begins: NDArray[np.int64]
    taken: NDArray[np.int64]


@lru_cache(64)
def _lay_out_block(
    seed: int, purpose: str, shares: tuple[float, ...], block: int, numbering: int
) -> _Block:
    """Lay out a block: its samples by position, and positions by source and number."""
    before, after = _end_sources(shares, block), _end_sources(shares, block + 1)
    ends = after - before  # of each source's ranks in this block
    begins, taken = np.concatenate([[0], ends[:-1]]), np.diff(before, prepend=0)
    rank = permute(seed, f"{purpose}/{block}", BLOCK, np.arange(BLOCK))
    source = np.searchsorted(ends, rank, side="right")
    # By rank the sources stand one behind the other; by source alone, each keeps the order in time.
    places = np.argsort(rank if numbering == AS_SHUFFLED else source, kind="stable")
    number = np.empty(BLOCK, np.int64)
    number[places] = np.arange(BLOCK)
    number += (taken - begins)[source]
    return _Block(source, number, places, begins, taken)


def choose_sources(
    seed: int,
    shares: Sequence[float],
    positions: NDArray[np.int64],
    purpose: str = "mixture",
    numbering: int = AS_DRAWN,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the source of each of a run's samples, and its number in that source. (K,) -> 2 (K,)

    positions: numbers of samples, from the run's first or that of a phase. Every number of a source
    comes once; AS_DRAWN, they come in order.
    """
    source, number = np.empty_like(positions), np.empty_like(positions)
    blocks = positions // BLOCK
    for block in np.unique(blocks).tolist():
        here = blocks == block
        found = _lay_out_block(seed, purpose, tuple(shares), block, numbering)
        source[here] = found.source[positions[here] % BLOCK]
        number[here] = found.number[positions[here] % BLOCK]
    return source, number


def _end_sources(shares: Sequence[float], block: ArrayLike) -> NDArray[np.int64]:
    """The samples of each source and of those before it, in all blocks before `block`.

    (...) -> (..., S)
    """
    upper = np.cumsum(np.asarray(shares, np.float64))
    upper[-1] = 1.0
    first = (np.asarray(block, np.int64) * BLOCK).astype(np.float64)
    return np.floor(upper * first[..., None] + 0.5).astype(np.int64)


def _count_taken(
    shares: Sequence[float], source: int, block: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Count the samples of a source in all blocks before each `block`. (K,) -> (K,)"""
    return np.diff(_end_sources(shares, block), prepend=0)[..., source]


def find_numbers(shares: Sequence[float], source: int, positions: range) -> range:
    """The numbers of a source's samples in all blocks that have some of these samples of a run."""
    blocks = np.array([positions.start // BLOCK, (positions.stop - 1) // BLOCK + 1])
    return range(*_count_taken(shares, source, blocks).tolist())


def find_positions(
    seed: int,
    shares: Sequence[float],
    source: int,
    numbers: NDArray[np.int64],
    purpose: str = "mixture",
    numbering: int = AS_DRAWN,
) -> NDArray[np.int64]:
    """Find the run's samples that are these of a source by number. (K,) -> (K,)

    The inverse of `choose_sources`.
    """
    block = (numbers / (BLOCK * shares[source])).astype(np.int64)  # right to within rounding
    while (late := _count_taken(shares, source, block) > numbers).any():
        block -= late
    while (early := _count_taken(shares, source, block + 1) <= numbers).any():
        block += early
    found = np.empty_like(numbers)
    for one in np.unique(block).tolist():
        here, own = block == one, _lay_out_block(seed, purpose, tuple(shares), one, numbering)
        rank = numbers[here] - own.taken[source] + own.begins[source]
        found[here] = one * BLOCK + own.places[rank]
    return found


def count_taken(shares: Sequence[float], blocks: int) -> NDArray[np.int64]:
    """Count the samples of each source in the first blocks. -> (sources,)"""
    return np.diff(_end_sources(shares, blocks), prepend=0)


def choose_tail(
    seed: int, phase: Phase, samples: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The sources and numbers of the samples behind the last whole block of a phase that ends.

    They are numbered as they come: in a whole block every number comes, and in a part of one some
    would be left out. samples: of the phase. -> 2 (samples % BLOCK,)
    """
    first = samples - samples % BLOCK
    return choose_sources(
        seed, phase.shares, np.arange(first, samples), phase.purpose, numbering=AS_DRAWN
    )

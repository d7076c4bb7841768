"""Mixtures of sources by weight: which source a run's samples are from.

The samples of a run come in blocks. In each block every source has its share, rounded so that the
shares of all blocks up to any of them are right to within one sample; the order inside a block is a
keyed permutation. Sample p of a run is therefore found from the seed, the weights and p alone, and
so is its number among the samples of its source.
"""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hermes.data.dataset import CountBytes, UpdateLayout
from hermes.data.order import Cursor
from hermes.data.text_dataset import TextDataset, make_text_batch
from hermes.errors import DataError
from hermes.interface import Batch
from hermes.numerics.randomness import invert_permutation, permute

__all__ = [
    "MixtureDataset",
    "WeightedSource",
    "choose_sources",
    "find_numbers",
    "find_positions",
    "find_windows",
    "name_order",
    "parse_mixture",
    "strip_weights",
]

BLOCK = 4096  # samples
LEAST = 0.001  # share of a source, of which a block then has some
WEIGHTED = re.compile(r"(?P<name>.+):(?P<weight>\d+(\.\d*)?|\.\d+)")


@dataclass(frozen=True)
class WeightedSource:
    """A source and its share of the samples; the shares of all add up to 1."""

    name: str
    share: float


def parse_mixture(names: Sequence[str]) -> tuple[WeightedSource, ...]:
    """Parse 'web:0.7', 'code:0.3' as sources with shares; () where no name has a weight.

    A file that has such a name is a file. Raises DataError where only some have one.
    """
    found = [None if os.path.exists(name) else WEIGHTED.fullmatch(name) for name in names]
    if not any(found):
        return ()
    for name, match in zip(names, found, strict=True):
        if match is None:
            raise DataError(
                f"--data {name} has no weight and others have; give each one, as in {name}:0.5"
            )
    weights = [float(match["weight"]) for match in found if match]
    total = sum(weights)
    sources = []
    for match, weight in zip(found, weights, strict=True):
        assert match is not None, "refused above"
        share = weight / total if total else 0.0
        if share < LEAST:
            raise DataError(
                f"--data {match['name']} has {share:.2g} of all weights; give it at least {LEAST}, "
                "or leave it out"
            )
        sources.append(WeightedSource(match["name"], share))
    return tuple(sources)


def strip_weights(names: Sequence[str]) -> tuple[str, ...]:
    """The names without their weights. Raises DataError as `parse_mixture`."""
    mixture = parse_mixture(names)
    return tuple(source.name for source in mixture) or tuple(names)


def choose_sources(
    seed: int, shares: Sequence[float], positions: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the source of each of a run's samples, and its number in that source. (K,) -> 2 (K,)

    positions: numbers of samples, from the run's first. Every number of a source comes once.
    """
    source, number = np.empty_like(positions), np.empty_like(positions)
    blocks = positions // BLOCK
    for block in np.unique(blocks).tolist():
        here = blocks == block
        rank = permute(seed, f"mixture/{block}", BLOCK, positions[here] % BLOCK)
        before, after = _end_sources(shares, block), _end_sources(shares, block + 1)
        ends = after - before  # of each source's ranks in this block
        chosen = np.searchsorted(ends, rank, side="right")
        taken = np.diff(before, prepend=0)  # by each source, in all blocks before
        source[here] = chosen
        number[here] = taken[chosen] + rank - np.concatenate([[0], ends[:-1]])[chosen]
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
    seed: int, shares: Sequence[float], source: int, numbers: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Find the run's samples that are these of a source by number. (K,) -> (K,)

    The inverse of `choose_sources`.
    """
    block = (numbers / (BLOCK * shares[source])).astype(np.int64)  # right to within rounding
    while (late := _count_taken(shares, source, block) > numbers).any():
        block -= late
    while (early := _count_taken(shares, source, block + 1) <= numbers).any():
        block += early
    before, after = _end_sources(shares, block), _end_sources(shares, block + 1)
    rank = numbers - _count_taken(shares, source, block)
    if source:
        rank += (after - before)[:, source - 1]
    found = np.empty_like(numbers)
    for one in np.unique(block).tolist():
        here = block == one
        found[here] = one * BLOCK + invert_permutation(seed, f"mixture/{one}", BLOCK, rank[here])
    return found


def name_order(source: int, epoch: int) -> str:
    """The purpose of the permutation of a source's windows in one of its epochs."""
    return f"mixture/{source}/order/{epoch}"


def find_windows(
    seed: int, shares: Sequence[float], sizes: Sequence[int], positions: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Find the source of each sample, its window there and its epoch of it. (K,) -> 3 (K,)

    sizes: windows of each source.
    """
    source, number = choose_sources(seed, shares, positions)
    window, epoch = np.empty_like(number), np.empty_like(number)
    for index, size in enumerate(sizes):
        own = source == index
        epoch[own] = number[own] // size
        for one in np.unique(epoch[own]).tolist():
            here = own & (epoch == one)
            window[here] = permute(seed, name_order(index, one), size, number[here] % size)
    return source, window, epoch


class MixtureDataset:
    """Batches of windows of several datasets of text, each with its share of the samples.

    An epoch has as many samples as all sources have windows; a source is taken as often as its
    share says, in an order of its own each time. train and held_out: numbers of windows, of all
    sources.
    """

    def __init__(self, datasets: Sequence[TextDataset], shares: Sequence[float]):
        self.datasets, self.shares = tuple(datasets), tuple(shares)
        self.seed, self.seq_len = datasets[0].seed, datasets[0].seq_len
        self.train = range(sum(len(one.train) for one in datasets))
        self.held_out = range(sum(len(one.held_out) for one in datasets))

    def draw_batch(
        self,
        cursor: Cursor,
        *,
        samples: int,
        micro_batch: int,
        accum: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> tuple[Batch, Cursor]:
        """Draw this rank's share of the next `samples` windows, as `TextDataset.draw_batch`."""
        if not 1 <= samples <= micro_batch * accum * world_size:
            raise DataError(
                f"{samples} samples do not fit a step of {micro_batch * accum * world_size} rows"
            )
        size = len(self.train)
        positions = cursor.count_samples(size) + np.arange(samples, dtype=np.int64)
        sizes = [len(one.train) for one in self.datasets]
        source, window, _ = find_windows(self.seed, self.shares, sizes, positions)
        layout = UpdateLayout.build(samples, micro_batch, accum, rank, world_size)
        rows = np.where(layout.real, layout.rows, 0)
        source, window = source[rows], window[rows]  # (A, B)
        windows = np.empty((*rows.shape, self.seq_len + 1), np.int32)
        for number, dataset in enumerate(self.datasets):
            here = source == number
            windows[here] = dataset.read_windows(window[here])
        batch = make_text_batch(windows, layout, samples, self.datasets[0].mask_id)
        return batch, cursor.advance(samples, size)

    def iterate_validation(
        self, micro_batch: int, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Yield every held-out window of every source once."""
        for dataset in self.datasets:
            yield from dataset.iterate_validation(micro_batch, rank=rank, world_size=world_size)

    def count_validation_bytes(self, count_bytes: CountBytes) -> int:
        """Count the bytes of text in the held-out targets of all sources."""
        return sum(one.count_validation_bytes(count_bytes) for one in self.datasets)

    def describe_epochs(self, names: Sequence[str], samples: int) -> list[str]:
        """Sentences about how often each source is taken in a run of `samples` samples."""
        return [
            f"{name}: {share:.1%} of the samples, {samples * share / len(dataset.train):.2f} "
            f"epochs of its {len(dataset.train):,} sequences"
            for name, share, dataset in zip(names, self.shares, self.datasets, strict=True)
        ]

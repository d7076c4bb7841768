"""Mixtures of sources by weight: which source a run's samples are from.

The samples of a run come in blocks. In each block every source has its share, rounded so that the
shares of all blocks up to any of them are right to within one sample; the order inside a block is a
keyed permutation. Sample p of a run is therefore found from the seed, the weights and p alone, and
so is its number among the samples of its source. Where weights change at a step, blocks begin anew
with its first sample.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hermes.data.dataset import CountBytes, UpdateLayout
from hermes.data.mixture_sources import WeightedSource, parse_mixture, strip_weights
from hermes.data.order import Cursor
from hermes.data.text_dataset import TextDataset, make_text_batch
from hermes.errors import DataError
from hermes.interface import Batch
from hermes.numerics.randomness import invert_permutation, permute

__all__ = [
    "MixtureDataset",
    "Phase",
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
NO_SOURCE = -1  # of a row without a sample


@dataclass(frozen=True)
class Phase:
    """The shares of all sources from a sample of the run on, counted from 0."""

    start: int
    shares: tuple[float, ...]

    @property
    def purpose(self) -> str:
        """The random stream of its blocks."""
        return f"mixture/from {self.start}" if self.start else "mixture"


def choose_sources(
    seed: int, shares: Sequence[float], positions: NDArray[np.int64], purpose: str = "mixture"
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose the source of each of a run's samples, and its number in that source. (K,) -> 2 (K,)

    positions: numbers of samples, from the run's first or that of a phase. Every number of a source
    comes once.
    """
    source, number = np.empty_like(positions), np.empty_like(positions)
    blocks = positions // BLOCK
    for block in np.unique(blocks).tolist():
        here = blocks == block
        rank = permute(seed, f"{purpose}/{block}", BLOCK, positions[here] % BLOCK)
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
    return source, *_place_numbers(seed, sizes, source, number)


def _place_numbers(
    seed: int, sizes: Sequence[int], source: NDArray[np.int64], number: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The window and the epoch of samples by their source and number. (K,), (K,) -> 2 (K,)"""
    window, epoch = np.empty_like(number), np.empty_like(number)
    for index, size in enumerate(sizes):
        own = source == index
        epoch[own] = number[own] // size
        for one in np.unique(epoch[own]).tolist():
            here = own & (epoch == one)
            window[here] = permute(seed, name_order(index, one), size, number[here] % size)
    return window, epoch


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
    blocks, rest = divmod(samples, BLOCK)
    positions = np.arange(blocks * BLOCK, blocks * BLOCK + rest)
    source, _ = choose_sources(seed, phase.shares, positions, phase.purpose)
    number = np.empty_like(source)
    for index, taken in enumerate(count_taken(phase.shares, blocks).tolist()):
        own = source == index
        number[own] = taken + np.arange(own.sum())
    return source, number


class MixtureDataset:
    """Batches of windows of several datasets of text, each with its share of the samples.

    An epoch has as many samples as all sources have windows; a source is taken as often as its
    share says, in an order of its own each time. train and held_out: numbers of windows, of all
    sources. shares: of the run's first samples; later: what they are from other samples on.
    """

    def __init__(
        self,
        datasets: Sequence[TextDataset],
        shares: Sequence[float],
        later: Sequence[Phase] = (),
    ):
        self.datasets, self.shares = tuple(datasets), tuple(shares)
        self.seed, self.seq_len = datasets[0].seed, datasets[0].seq_len
        self.train = range(sum(len(one.train) for one in datasets))
        self.held_out = range(sum(len(one.held_out) for one in datasets))
        self.phases = (Phase(0, self.shares), *later)
        self._taken = [np.zeros(len(self.datasets), np.int64)]  # by each source, before each phase
        self._tails: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        for before, after in pairwise(self.phases):
            samples = after.start - before.start
            self._tails.append(choose_tail(self.seed, before, samples))
            self._taken.append(self._taken[-1] + self._count_in_phase(before, samples))

    def _count_in_phase(self, phase: Phase, samples: int) -> NDArray[np.int64]:
        """Count the samples of each source among the first of a phase. -> (sources,)"""
        rest, _ = choose_tail(self.seed, phase, samples)
        whole = count_taken(phase.shares, samples // BLOCK)
        return whole + np.bincount(rest, minlength=len(phase.shares))

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
        source, number = self.choose_sources(positions)
        window, _ = _place_numbers(self.seed, sizes, source, number)
        layout = UpdateLayout.build(samples, micro_batch, accum, rank, world_size)
        rows = np.where(layout.real, layout.rows, 0)
        source, window = source[rows], window[rows]  # (A, B)
        windows = np.empty((*rows.shape, self.seq_len + 1), np.int32)
        for index, dataset in enumerate(self.datasets):
            here = source == index
            windows[here] = dataset.read_windows(window[here])
        batch = make_text_batch(windows, layout, samples, self.datasets[0].mask_id)
        if len(self.datasets) > 1:
            own = np.where(layout.real, source, NO_SOURCE).astype(np.int32)
            batch = replace(batch, sources=own)
        return batch, cursor.advance(samples, size)

    def choose_sources(
        self, positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Choose the source of each of the run's samples, and its number there. (K,) -> 2 (K,)"""
        source, number = np.empty_like(positions), np.empty_like(positions)
        starts = [phase.start for phase in self.phases]
        at = np.searchsorted(starts, positions, side="right") - 1
        for index in np.unique(at).tolist():
            here, phase = at == index, self.phases[index]
            own = positions[here] - phase.start
            sources, numbers = choose_sources(self.seed, phase.shares, own, phase.purpose)
            if index < len(self._tails):
                tail = self.phases[index + 1].start - phase.start
                tail -= tail % BLOCK
                behind = own >= tail
                sources[behind], numbers[behind] = (
                    part[own[behind] - tail] for part in self._tails[index]
                )
            source[here], number[here] = sources, numbers + self._taken[index][sources]
        return source, number

    def iterate_validation(
        self, micro_batch: int, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Yield every held-out window of every source once."""
        for dataset in self.datasets:
            yield from dataset.iterate_validation(micro_batch, rank=rank, world_size=world_size)

    def count_validation_bytes(self, count_bytes: CountBytes) -> int:
        """Count the bytes of text in the held-out targets of all sources."""
        return sum(one.count_validation_bytes(count_bytes) for one in self.datasets)

    def count_source_samples(self, samples: int) -> list[int]:
        """Count the samples of each source in a run of `samples` samples."""
        at = sum(phase.start <= samples for phase in self.phases) - 1
        last = self.phases[at]
        taken = self._taken[at] + self._count_in_phase(last, samples - last.start)
        return [int(count) for count in taken]

    def describe_epochs(self, names: Sequence[str], samples: int, per_step: int = 1) -> list[str]:
        """Sentences about how often each source is taken in a run of `samples` samples.

        per_step: samples of a step.
        """
        said = []
        counts = self.count_source_samples(samples)
        for index, (name, dataset) in enumerate(zip(names, self.datasets, strict=True)):
            share = f"{self.shares[index]:.1%} of the samples"
            for phase in self.phases[1:]:
                share += f", {phase.shares[index]:.1%} from step {phase.start // per_step:,} on"
            size = len(dataset.train)
            said.append(
                f"{name}: {share}, {counts[index] / size:.2f} epochs of its {size:,} sequences"
            )
        if self.phases[-1].start >= samples > 0:
            step = self.phases[-1].start // per_step
            said.append(
                f"the weights from step {step:,} on are not reached: the run has "
                f"{-(-samples // per_step):,} steps"
            )
        return said

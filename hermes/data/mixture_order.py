"""The order of a mixture: which source a run's samples are from, and which of its windows.

The samples of a run come in blocks, of which mixture_blocks says what each sample is: a source, and
a number in it. A source's samples are its windows in an order of its own, a new one whenever all
are taken. Sample p of a run is therefore found from the seed, the weights and p alone, both ways.
Where weights change at a step, blocks begin anew with its first sample.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hermes.data.mixture_blocks import (
    AS_DRAWN,
    BLOCK,
    Phase,
    choose_sources,
    choose_tail,
    count_taken,
    find_numbers,
    find_positions,
)
from hermes.numerics.randomness import permute

__all__ = ["NEVER", "MixtureOrder", "find_source_windows", "name_order"]

NEVER = int(np.iinfo(np.int64).max)


def name_order(source: int, epoch: int) -> str:
    """The purpose of the permutation of a source's windows in one of its epochs."""
    return f"mixture/{source}/order/{epoch}"


def find_source_windows(
    seed: int, sizes: Sequence[int], source: NDArray[np.int64], number: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """The source, the window and the epoch of numbers of sources. 2 (K,) -> 3 (K,)

    sizes: windows of each source.
    """
    window, epoch = np.empty_like(number), np.empty_like(number)
    for index, size in enumerate(sizes):
        own = source == index
        epoch[own] = number[own] // size
        for one in np.unique(epoch[own]).tolist():
            here = own & (epoch == one)
            window[here] = permute(seed, name_order(index, one), size, number[here] % size)
    return source, window, epoch


class MixtureOrder:
    """The samples of a run on several sources. phases: the shares, first those from sample 0 on.

    sizes: windows of each source. numbering: of a source's samples in a block, AS_DRAWN or, for
    runs that were begun so, AS_SHUFFLED.
    """

    def __init__(
        self,
        seed: int,
        phases: Sequence[Phase],
        sizes: Sequence[int],
        numbering: int = AS_DRAWN,
    ):
        self.numbering = numbering
        self.seed, self.phases, self.sizes = seed, tuple(phases), tuple(sizes)
        self._taken = [np.zeros(len(sizes), np.int64)]  # by each source, before each phase
        self._tails: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        for before, after in pairwise(self.phases):
            samples = after.start - before.start
            self._tails.append(choose_tail(seed, before, samples))
            self._taken.append(self._taken[-1] + self._count_in_phase(before, samples))

    def _count_in_phase(self, phase: Phase, samples: int) -> NDArray[np.int64]:
        """Count the samples of each source among the first of a phase. -> (sources,)"""
        rest, _ = choose_tail(self.seed, phase, samples)
        whole = count_taken(phase.shares, samples // BLOCK)
        return whole + np.bincount(rest, minlength=len(phase.shares))

    def _find_tail(self, index: int) -> int:
        """The sample of a phase, counted from its first, from which on it is its tail."""
        samples = self.phases[index + 1].start - self.phases[index].start
        return samples - samples % BLOCK

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
            sources, numbers = choose_sources(
                self.seed, phase.shares, own, phase.purpose, self.numbering
            )
            if index < len(self._tails):
                tail = self._find_tail(index)
                behind = own >= tail
                sources[behind], numbers[behind] = (
                    part[own[behind] - tail] for part in self._tails[index]
                )
            source[here], number[here] = sources, numbers + self._taken[index][sources]
        return source, number

    def find_windows(
        self, positions: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Find the source of each sample, its window there and its epoch of it. (K,) -> 3 (K,)"""
        return find_source_windows(self.seed, self.sizes, *self.choose_sources(positions))

    def find_numbers(self, source: int, positions: range) -> range:
        """Numbers of a source's samples among which are all that are in a stretch of the run."""
        found = range(0, 0)
        for index, phase in enumerate(self.phases):
            stop = self.phases[index + 1].start if index + 1 < len(self.phases) else positions.stop
            low, high = max(positions.start, phase.start), min(positions.stop, stop)
            if low >= high:
                continue
            own = range(low - phase.start, high - phase.start)
            numbers = find_numbers(phase.shares, source, own)
            taken = int(self._taken[index][source])
            first = found.start if found else numbers.start + taken
            last = numbers.stop + taken
            if index < len(self._tails):
                last = min(last, int(self._taken[index + 1][source]))
            found = range(first, max(found.stop, last))
        return found

    def find_positions(self, source: int, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the run's samples that are these of a source by number. (K,) -> (K,)

        The inverse of `choose_sources`; NEVER for numbers that a source without a share from some
        sample on does not come to.
        """
        found = np.full_like(numbers, NEVER)
        taken = [int(before[source]) for before in self._taken]
        at = np.searchsorted(taken, numbers, side="right") - 1
        for index in np.unique(at).tolist():
            here, phase = at == index, self.phases[index]
            if not phase.shares[source]:
                continue
            own = numbers[here] - taken[index]
            behind, places = np.zeros(len(own), np.bool_), np.empty_like(own)
            if index < len(self._tails):
                tail = self._find_tail(index)
                whole = int(count_taken(phase.shares, tail // BLOCK)[source])
                behind = own >= whole
                rest = np.flatnonzero(self._tails[index][0] == source)
                places[behind] = tail + rest[own[behind] - whole]
            places[~behind] = find_positions(
                self.seed, phase.shares, source, own[~behind], phase.purpose, self.numbering
            )
            found[here] = phase.start + places
        return found

    def count_source_samples(self, samples: int) -> list[int]:
        """Count the samples of each source in a run of `samples` samples."""
        at = sum(phase.start <= samples for phase in self.phases) - 1
        last = self.phases[at]
        taken = self._taken[at] + self._count_in_phase(last, samples - last.start)
        return [int(count) for count in taken]

    def find_edge(self, position: int) -> int:
        """The first sample from this one on before which each source gave all its numbers.

        It ends a block, or the part of one that ends a phase.
        """
        index = sum(phase.start <= position for phase in self.phases) - 1
        start = self.phases[index].start
        edge = start - (start - position) // BLOCK * BLOCK
        if index + 1 < len(self.phases):
            edge = min(edge, self.phases[index + 1].start)
        return edge

    def give_numbers(self, source: int, turns: NDArray[np.int64]) -> NDArray[np.int64]:
        """The numbers that a source gives in its turns, from 0: as they come. (K,) -> (K,)"""
        return turns

    def find_turns(self, source: int, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The turns in which a source gives these numbers. (K,) -> (K,)"""
        return numbers

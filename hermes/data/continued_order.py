"""The order of a mixture after a run went back to a checkpoint: weights change at their steps.

Where a run goes back, the samples that it leaves out stay left out, and steps take later samples
than they would have. Weights that change at steps then change at later samples, too, so that the
order from there on is another one. Each source continues with the windows that it has not given
yet: those left in the block that was begun, as they would have come, and then the next ones.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hermes.data.mixture_blocks import Phase
from hermes.data.mixture_order import NEVER, MixtureOrder, find_source_windows

__all__ = ["ContinuedOrder", "Order", "continue_order", "shift_phases"]

Numbers = NDArray[np.int64]


class Order(Protocol):
    """The samples of a run on several sources, from the first or from where it went back."""

    seed: int
    sizes: tuple[int, ...]
    numbering: int

    def choose_sources(self, positions: Numbers) -> tuple[Numbers, Numbers]:
        """Choose the source of each of the run's samples, and its number there. (K,) -> 2 (K,)"""
        ...

    def find_windows(self, positions: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Find the source of each sample, its window there and its epoch of it. (K,) -> 3 (K,)"""
        ...

    def find_numbers(self, source: int, positions: range) -> range:
        """Numbers of a source's samples among which are all that are in a stretch of the run."""
        ...

    def find_positions(self, source: int, numbers: Numbers) -> Numbers:
        """Find the run's samples that are these of a source by number. (K,) -> (K,)"""
        ...

    def count_source_samples(self, samples: int) -> list[int]:
        """Count the samples of each source in a run of `samples` samples."""
        ...

    def find_edge(self, position: int) -> int:
        """The first sample from this one on before which each source gave all its numbers."""
        ...

    def give_numbers(self, source: int, turns: Numbers) -> Numbers:
        """The numbers that a source gives in its turns of this order, from 0. (K,) -> (K,)"""
        ...

    def find_turns(self, source: int, numbers: Numbers) -> Numbers:
        """The turns in which a source gives these numbers, -1 for none. (K,) -> (K,)"""
        ...


def shift_phases(
    changes: Sequence[tuple[int, tuple[float, ...]]], step: int, sample: int, per_step: int
) -> tuple[Phase, ...]:
    """The phases of a run that went back to `step` and on from `sample`.

    changes: the steps from which on shares hold, and those. per_step: samples of a step.
    """
    now = [shares for start, shares in changes if start <= step][-1]
    later = [Phase(sample + (start - step) * per_step, s) for start, s in changes if start > step]
    return (Phase(sample, now), *later)


def continue_order(order: Order, continuations: Sequence[Sequence[Phase]]) -> Order:
    """The order of a run that went back once for each of these phases from there on."""
    for phases in continuations:
        order = ContinuedOrder(order, phases)
    return order


class ContinuedOrder:
    """The order `before` up to the first of `phases`, and from there on by these."""

    def __init__(self, before: Order, phases: Sequence[Phase]):
        self.seed, self.sizes, self._before = before.seed, before.sizes, before
        self.numbering = before.numbering
        self.start = phases[0].start
        self._inner = MixtureOrder(self.seed, phases, self.sizes, self.numbering)
        edge = before.find_edge(self.start)
        source, number = before.choose_sources(np.arange(self.start, edge))
        # What each source has left in the block that was begun, and the turn it is at behind that.
        self._left = [number[source == k] for k in range(len(self.sizes))]
        self._next = _count_turns(before, edge)

    def choose_sources(self, positions: Numbers) -> tuple[Numbers, Numbers]:
        """Choose the source of each of the run's samples, and its number there. (K,) -> 2 (K,)"""
        source, number = np.empty_like(positions), np.empty_like(positions)
        behind = positions >= self.start
        source[~behind], number[~behind] = self._before.choose_sources(positions[~behind])
        own_source, turns = self._inner.choose_sources(positions[behind])
        own = np.empty_like(turns)
        for k in np.unique(own_source).tolist():
            here = own_source == k
            own[here] = self.give_numbers(k, turns[here])
        source[behind], number[behind] = own_source, own
        return source, number

    def find_windows(self, positions: Numbers) -> tuple[Numbers, Numbers, Numbers]:
        """Find the source of each sample, its window there and its epoch of it. (K,) -> 3 (K,)"""
        return find_source_windows(self.seed, self.sizes, *self.choose_sources(positions))

    def find_numbers(self, source: int, positions: range) -> range:
        """Numbers of a source's samples among which are all that are in a stretch of the run."""
        before = range(positions.start, min(positions.stop, self.start))
        behind = range(max(positions.start, self.start), positions.stop)
        found = [self._before.find_numbers(source, before)] if before else []
        turns = self._inner.find_numbers(source, behind) if behind else range(0)
        if turns:
            found.append(self._find_bounds(source, turns))
        found = [one for one in found if one]
        if not found:
            return range(0)
        return range(min(one.start for one in found), max(one.stop for one in found))

    def _find_bounds(self, source: int, turns: range) -> range:
        """A range that has all numbers which a source gives in some turns."""
        bounds = [turns.start, turns.stop - 1]
        # Numbers fall at most where one list of what is left ends and the next begins.
        order: Order = self
        offset = 0
        while isinstance(order, ContinuedOrder):
            left = len(order._left[source])
            bounds += [at for at in range(offset, offset + left) if at in turns]
            bounds += [at for at in (offset + left,) if at in turns]
            offset += left - int(order._next[source])
            order = order._before
        numbers = self.give_numbers(source, np.array(bounds, np.int64))
        return range(int(numbers.min()), int(numbers.max()) + 1)

    def find_positions(self, source: int, numbers: Numbers) -> Numbers:
        """Find the run's samples that are these of a source by number. (K,) -> (K,)

        NEVER for numbers that are left out, or that a source without a share does not come to.
        """
        turns = self.find_turns(source, numbers)
        found = np.empty_like(numbers)
        behind = turns >= 0
        found[behind] = self._inner.find_positions(source, turns[behind])
        before = self._before.find_positions(source, numbers[~behind])
        # What the order before has from here on is left out.
        found[~behind] = np.where(before < self.start, before, NEVER)
        return found

    def count_source_samples(self, samples: int) -> list[int]:
        """Count the samples of each source in a run of `samples` samples."""
        before = self._before.count_source_samples(min(samples, self.start))
        if samples <= self.start:
            return before
        own = self._inner.count_source_samples(samples)
        return [a + b for a, b in zip(before, own, strict=True)]

    def find_edge(self, position: int) -> int:
        """The first sample from this one on before which each source gave all its numbers."""
        return self._inner.find_edge(position)

    def give_numbers(self, source: int, turns: Numbers) -> Numbers:
        """The numbers that a source gives in its turns from the start on. (K,) -> (K,)"""
        left, found = self._left[source], np.empty_like(turns)
        early = turns < len(left)
        found[early] = left[turns[early]]
        later = turns[~early] - len(left) + self._next[source]
        found[~early] = self._before.give_numbers(source, later)
        return found

    def find_turns(self, source: int, numbers: Numbers) -> Numbers:
        """The turns in which a source gives these numbers, -1 for none. (K,) -> (K,)"""
        left, first = self._left[source], int(self._next[source])
        before = self._before.find_turns(source, numbers)
        found = np.where(before >= first, before - first + len(left), -1)
        if len(left):
            order = np.argsort(left)
            place = order[np.searchsorted(left, numbers, sorter=order).clip(max=len(left) - 1)]
            found = np.where(left[place] == numbers, place, found)
        return found


def _count_turns(order: Order, edge: int) -> Numbers:
    """The turns that each source has had in an order up to an edge. -> (sources,)"""
    inner = order._inner if isinstance(order, ContinuedOrder) else order
    return np.array(inner.count_source_samples(edge), np.int64)

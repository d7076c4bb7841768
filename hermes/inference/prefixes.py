"""Which tokens the rows of a cache have read, so that what begins alike is read once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hermes.interface import Tensors

__all__ = ["PrefixStore", "RowState"]


@dataclass(frozen=True)
class RowState:
    """What a cache has of a row. capacity: for which it began. tensors: as of `KeepsRows`."""

    tokens: tuple[int, ...]
    capacity: int
    tensors: Tensors


SHORTEST = 4  # tokens that are worth copying


class PrefixStore:
    """The tokens of each row, also of rows whose text has ended, until they are used again."""

    def __init__(self, rows: int):
        self._tokens: list[list[int]] = [[] for _ in range(rows)]
        self._used = [0] * rows
        self._clock = 0

    def set_tokens(self, row: int, tokens: Sequence[int]) -> None:
        """Say what a row begins with."""
        self._tokens[row] = list(tokens)
        self._mark_used(row)

    def add_tokens(self, row: int, tokens: Sequence[int]) -> None:
        """Say what a row has read more."""
        self._tokens[row].extend(tokens)
        self._mark_used(row)

    def get_tokens(self, row: int) -> list[int]:
        """What a row has read."""
        return self._tokens[row]

    def list_by_use(self) -> list[int]:
        """Rows that have read something, those used last first."""
        used = [row for row, tokens in enumerate(self._tokens) if tokens]
        return sorted(used, key=lambda row: -self._used[row])

    def _mark_used(self, row: int) -> None:
        self._clock += 1
        self._used[row] = self._clock

    def choose_row(self, free: Iterable[int], tokens: Sequence[int]) -> int:
        """The free row for a prompt: one that has its beginning, else the one idle for longest.

        Not the one of the longest beginning if another row that stays has as much of it.
        """
        common = {row: self.count_common(self._tokens[row], tokens) for row in free}
        best = max(common, key=lambda row: (common[row], -self._used[row]))
        elsewhere = max(
            (
                self.count_common(held, tokens)
                for row, held in enumerate(self._tokens)
                if row != best
            ),
            default=0,
        )
        if common[best] > elsewhere:
            return best
        return min(common, key=lambda row: self._used[row])

    def find_longest(self, row: int, tokens: Sequence[int]) -> tuple[int | None, int]:
        """A row that has most of a prompt's beginning, itself if as much; and how many tokens."""
        common = {other: self.count_common(held, tokens) for other, held in enumerate(self._tokens)}
        best = max(common, key=lambda other: (common[other], other == row))
        return (best, common[best]) if common[best] else (None, 0)

    @staticmethod
    def count_common(held: Sequence[int], tokens: Sequence[int]) -> int:
        """How many tokens of a prompt another text begins with, but for the last one of it.

        That one is read in any case, since its logits are needed. 0 where too few to be worth it.
        """
        most = min(len(held), len(tokens) - 1)
        if most < SHORTEST or list(held[:SHORTEST]) != list(tokens[:SHORTEST]):
            return 0
        a: NDArray[np.int64] = np.asarray(held[:most], np.int64)
        different = np.flatnonzero(a != np.asarray(tokens[:most], np.int64))
        return int(different[0]) if len(different) else most

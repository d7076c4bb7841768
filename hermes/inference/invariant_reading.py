"""How an engine reads prompts where a text's bits may not depend on who shares the batch.

Prompts are read in whole chunks, counted from their beginning, and only whole chunks are taken from
other rows: what a chunk's keys are then is the same in every company.
"""

from collections.abc import Sequence

from hermes.spec import ModelSpec

__all__ = ["WholeChunks"]


class WholeChunks:
    """Which rows read a chunk next, and how much of each row others may begin with."""

    def __init__(self, spec: ModelSpec, rows: int, chunk: int):
        self._chunk = chunk
        self._whole = [0] * rows  # tokens of each row that were read in whole chunks
        self._turns = [0] * rows
        self._clock = 0
        # What a layer with a window keeps of a row depends on all that the row has read.
        self._can_share = all(one.window_size is None for one in spec.attentions)

    def limit_shared(self, common: int, source: int | None = None) -> int:
        """How many of the tokens that two rows have in common one may take from the other.

        source: the other, where what counts is what it has read so far.
        """
        if not self._can_share:
            return 0
        found = common if source is None else min(common, self._whole[source])
        return found // self._chunk * self._chunk

    def open_row(self, row: int, length: int) -> None:
        """Begin a row with so many tokens of another."""
        self._whole[row] = length

    def count_read(self, row: int, before: int, count: int) -> None:
        """Say that a row that had read `before` tokens has read `count` more."""
        if before == self._whole[row] and count == self._chunk:
            self._whole[row] += count

    def choose_reads(self, rows: Sequence[int], unread: Sequence[int]) -> list[tuple[int, int]]:
        """Which of these rows read next, those that waited longest first, and how many tokens.

        At most a chunk's tokens in all. -> pairs of an index into `rows` and a count
        """
        left, chosen = self._chunk, []
        for index in sorted(range(len(rows)), key=lambda index: self._turns[rows[index]]):
            count = min(self._chunk, unread[index])
            if count > left:
                break
            left -= count
            self._clock += 1
            self._turns[rows[index]] = self._clock
            chosen.append((index, count))
        return chosen

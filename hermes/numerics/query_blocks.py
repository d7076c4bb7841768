"""Blocks of queries for causal attention without a kernel: scores that are masked are not computed.

A block leaves out the keys after its last query, and those before the window of its first: in long
rows nearly half of all scores.
"""

from typing import NamedTuple

__all__ = ["QueryBlock", "count_block_scores", "list_query_blocks"]

LEAST_QUERIES = 64
MOST_BLOCKS = 4  # each pads a gradient of keys and of values to the length of the row


class QueryBlock(NamedTuple):
    """Queries `start` to `end` of a row, which read keys from `first` to `end`."""

    start: int
    end: int
    first: int


def list_query_blocks(length: int, window: int | None) -> list[QueryBlock]:
    """The blocks of a row's queries, in order; one where the row is short."""
    size = max(LEAST_QUERIES, -(-length // MOST_BLOCKS))
    found = []
    for start in range(0, length, size):
        first = 0 if window is None else max(0, start - window + 1)
        found.append(QueryBlock(start, min(start + size, length), first))
    return found


def count_block_scores(length: int, window: int | None) -> int:
    """Count the scores that all blocks compute; without blocks they are length**2."""
    blocks = list_query_blocks(length, window)
    return sum((block.end - block.start) * (block.end - block.first) for block in blocks)

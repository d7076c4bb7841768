"""Where the tokens of each row lie in the buffers of a KV cache: plain integers, on the host.

A layer without a window keeps all tokens of a row, a layer with one as many as twice the window:
new tokens are written behind the others, and where the buffer is full, the last of them move to its
beginning. Keys so stay in the order of their positions. Shared by the backends that train; the
oracle has no buffers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.errors import HermesError
from hermes.formatting import format_count
from hermes.interface import check_tokens
from hermes.numerics.positions import choose_table_length
from hermes.spec import AttentionSpec, ModelSpec, Rope

__all__ = [
    "ROW_PARTS",
    "ROW_TILE",
    "Move",
    "RowLayout",
    "RowPass",
    "check_row_tensors",
    "count_cache_bytes",
    "count_key_numbers",
    "find_windows",
    "list_invariant_reads",
    "list_reads",
    "pad_rows",
]

ROW_PARTS = ("keys", "values")  # of each layer, in a row that is kept outside of the cache


def find_windows(spec: ModelSpec, capacity: int) -> tuple[int | None, ...]:
    """The window of each layer whose buffer is shorter than the capacity for it; else None."""
    windows = [layer.attention.window_size if layer.attention else None for layer in spec.layers]
    return tuple(w if w is not None and 2 * w < capacity else None for w in windows)


def count_key_numbers(attention: AttentionSpec) -> int:
    """Count the numbers of a token's keys and values."""
    return attention.kv_heads * (attention.head_size + attention.value_size)


def count_cache_bytes(spec: ModelSpec, rows: int, capacity: int, a: int) -> int:
    """Count the bytes of the buffers of a KV cache. a: the bytes of a number."""
    found = 0
    for layer, window in zip(spec.layers, find_windows(spec, capacity), strict=True):
        if layer.attention is not None:
            places = capacity if window is None else 2 * window
            found += rows * places * count_key_numbers(layer.attention)
    return a * found


@dataclass(frozen=True)
class Move:
    """Within a row's buffer, `count` tokens from place `start` on move to its beginning."""

    row: int
    start: int
    count: int


@dataclass(frozen=True)
class RowPass:
    """One pass over B rows, by window: what moves first, where it writes, what it reads.

    rows: of the buffers. before, after: the tokens of each row before and after it. planned: each
    row's capacity. places: of a row's first new token in its buffer. firsts: the position of the
    token at place 0. widths: how many places are read.
    """

    rows: tuple[int, ...]
    before: NDArray[np.int64]
    after: NDArray[np.int64]
    planned: tuple[int, ...]
    positions: NDArray[np.int64]
    moves: dict[int | None, list[Move]] = field(default_factory=dict)
    places: dict[int | None, NDArray[np.int64]] = field(default_factory=dict)
    firsts: dict[int | None, NDArray[np.int64]] = field(default_factory=dict)
    widths: dict[int | None, int] = field(default_factory=dict)

    @property
    def counts(self) -> NDArray[np.int64]:
        """New tokens of each row. (B,)"""
        return self.after - self.before

    @property
    def span(self) -> slice | None:
        """The rows as a slice of the buffers, where they are neighbours in order."""
        first = self.rows[0]
        neighbours = self.rows == tuple(range(first, first + len(self.rows)))
        return slice(first, first + len(self.rows)) if neighbours else None


class RowLayout:
    """The rows of a cache: how many tokens each has, and which of them its buffers have."""

    def __init__(self, spec: ModelSpec, rows: int, capacity: int):
        self.spec, self.rows, self.capacity = spec, rows, capacity
        self.windows = find_windows(spec, capacity)
        self._lengths = [0] * rows
        self._planned = [0] * rows
        self._firsts = {window: [0] * rows for window in {None, *self.windows}}
        encodings = (attention.position_encoding for attention in spec.attentions)
        self._ropes = tuple({rope for rope in encodings if isinstance(rope, Rope)})

    def get_size(self, window: int | None) -> int:
        """The places of a row in the buffers of a layer."""
        return self.capacity if window is None else 2 * window

    @property
    def longest_read(self) -> int:
        """The most tokens that a row can read at once: a shift leaves window - 1 in the buffer."""
        return min([self.capacity, *(w + 1 for w in self.windows if w is not None)])

    def open(self, row: int, capacity: int, source: int | None, length: int) -> int:
        """Begin a row, with `length` tokens of another if they are there: else with 0. -> which

        Raises HermesError.
        """
        if not (0 <= row < self.rows and 0 < capacity <= self.capacity and 0 <= length < capacity):
            raise HermesError(
                f"a cache of {format_count(self.rows, 'rows')} of "
                f"{format_count(self.capacity, 'tokens')} has no row {row} for {capacity} that "
                f"begins with {length}"
            )
        kept = 0
        if source is not None and self._has_prefix(source, capacity, length):
            kept = length
            for firsts in self._firsts.values():
                firsts[row] = firsts[source]
        else:
            for firsts in self._firsts.values():
                firsts[row] = 0
        self._lengths[row], self._planned[row] = kept, capacity
        return kept

    def _has_prefix(self, source: int, capacity: int, length: int) -> bool:
        if not 0 < length <= self._lengths[source]:
            return False
        for window, firsts in self._firsts.items():
            if window is not None and firsts[source] > max(0, length - (window - 1)):
                return False
        return self._share_tables(capacity, self._planned[source])

    def _share_tables(self, *capacities: int) -> bool:
        """Whether rows of these capacities have the same tables of rope."""
        tables = ({choose_table_length(rope, n, self.spec.max_seq_len) for n in capacities}
                  for rope in self._ropes)  # fmt: skip
        return all(len(table) == 1 for table in tables)

    def restore(self, row: int, capacity: int, length: int, kept: Sequence[int | None]) -> bool:
        """Begin a row of which each layer has its last `kept` tokens, if that is enough.

        kept: of each layer, None where it has no cache. capacity: of the row when they were read;
        it may be beyond the cache's where that changes no table. Buffers take as many of them as
        `count_kept` then says.
        """
        planned = min(capacity, self.capacity)
        if not 0 < length <= planned or not self._share_tables(planned, capacity):
            return False
        counts: dict[int | None, int] = {}
        for window, count in zip(self.windows, kept, strict=True):
            if count is None:
                continue
            needed = length if window is None else min(length, window - 1)
            if count < needed:
                return False
            counts[window] = min(count, counts.get(window, count), self.get_size(window))
        for window, firsts in self._firsts.items():
            firsts[row] = length - counts.get(window, length)
        self._lengths[row], self._planned[row] = length, planned
        return True

    def count_kept(self, window: int | None, row: int) -> int:
        """How many places of a row's buffer are in use."""
        return self._lengths[row] - self._firsts[window][row]

    def list_capacities(self, rows: Sequence[int]) -> list[int]:
        """For how many tokens each of these rows was begun, 0 for one that was not."""
        return [self._planned[row] for row in rows]

    def check(
        self, rows: Sequence[int], tokens: NDArray[np.integer], counts: Sequence[int]
    ) -> None:
        """Refuse a read that the rows cannot take, before any of it is done. Raises HermesError."""
        B, T = tokens.shape
        if not len(rows) == len(counts) == len(set(rows)) == B:
            many = format_count(B, "rows of tokens need", "row of tokens needs")
            raise HermesError(f"{many} as many different rows and counts, got {rows}")
        if not all(0 <= row < self.rows for row in rows):
            raise HermesError(f"rows must be from 0 to {self.rows - 1}, got {rows}")
        if not all(1 <= count <= T for count in counts):
            raise HermesError(f"counts must be from 1 to {T}, got {counts}")
        lengths = [self._lengths[row] + count for row, count in zip(rows, counts, strict=True)]
        for row, length in zip(rows, lengths, strict=True):
            if length > self._planned[row]:
                planned = format_count(self._planned[row], "tokens")
                raise HermesError(f"row {row} for {planned} cannot hold {length}")
        check_tokens(self.spec, tokens, max(lengths))

    def plan(
        self, rows: Sequence[int], tokens: NDArray[np.integer], counts: Sequence[int]
    ) -> RowPass:
        """Lay out a pass that appends counts[b] of tokens[b] to rows[b], checked before."""
        at = tuple(int(row) for row in rows)
        before = np.array([self._lengths[row] for row in at], np.int64)
        after = before + np.asarray(counts, np.int64)
        # Padding has the position of the row's last token: its results are not read.
        steps = np.arange(tokens.shape[1])
        positions = np.minimum(before[:, None] + steps, after[:, None] - 1)
        planned = tuple(self._planned[row] for row in at)
        found = RowPass(at, before, after, planned, positions)
        for window in self._firsts:
            self._plan_window(window, found)
        return found

    def _plan_window(self, window: int | None, found: RowPass) -> None:
        firsts, size, moves = self._firsts[window], self.get_size(window), []
        for row, length, end in zip(
            found.rows, found.before.tolist(), found.after.tolist(), strict=True
        ):
            if window is not None and end - firsts[row] > size:
                count = min(window - 1, length - firsts[row])
                moves.append(Move(row, length - firsts[row] - count, count))
                firsts[row] = length - count
        first = np.array([firsts[row] for row in found.rows], np.int64)
        found.moves[window], found.firsts[window] = moves, first
        found.places[window] = found.before - first
        found.widths[window] = int((found.after - first).max())

    def finish(self, done: RowPass) -> None:
        """Count a pass's tokens as kept."""
        for row, length in zip(done.rows, done.after.tolist(), strict=True):
            self._lengths[row] = length


def list_reads(
    tokens: NDArray[np.integer], counts: Sequence[int], longest: int
) -> list[tuple[list[int], NDArray[np.integer], list[int]]]:
    """Split a read into such of `longest` tokens: which of the B rows, their tokens, how many."""
    reads = []
    for start in range(0, tokens.shape[1], longest):
        which = [b for b, count in enumerate(counts) if count > start]
        left = [min(int(counts[b]) - start, longest) for b in which]
        if which:
            reads.append((which, tokens[which, start : start + max(left)], left))
    return reads


ROW_TILE = 16


def pad_rows(rows: int) -> int:
    """How many rows a pass has whose numbers are not to depend on how many are read.

    The products of a matrix have their rows in tiles, and what is left beside whole tiles may be
    summed in another order: torch's of float32 on a CPU with two threads do so for the last of 5 or
    7 rows, and for a row alone; of 8, 12, 16 or 32 rows all are alike.
    """
    return -(-rows // ROW_TILE) * ROW_TILE


def list_invariant_reads(
    tokens: NDArray[np.integer], counts: Sequence[int], longest: int
) -> list[tuple[list[int], NDArray[np.integer], list[int]]]:
    """list_reads, but what a row reads with others is one token: prompts are read row by row."""
    reads = []
    for b, count in enumerate(counts):
        if count > 1:
            own = tokens[b : b + 1, :count]
            reads += [([b], part, left) for _, part, left in list_reads(own, [count], longest)]
    single = [b for b, count in enumerate(counts) if count == 1]
    if single:
        reads.append((single, tokens[single, :1], [1] * len(single)))
    return reads


def check_row_tensors(
    own: Mapping[str, NDArray[Any]],
    given: Mapping[str, NDArray[Any]],
    num_layers: int,
) -> list[int | None]:
    """How many tokens each layer has in a row that was kept, None where it has no cache.

    own: tensors of a row of this model. Raises HermesError where the shapes are not its.
    """
    counts: list[int | None] = [None] * num_layers
    if set(own) != set(given):
        raise HermesError("the row that was kept is of a model with other layers")
    for name, tensor in own.items():
        (heads, _, size), found = tensor.shape, given[name].shape
        layer = int(name.split(".")[1])
        if len(found) != 3 or (found[0], found[2]) != (heads, size):
            raise HermesError(
                f"{name} of the row that was kept has shape {found}, and the model has "
                f"{format_count(heads, 'heads')} of {size}"
            )
        if counts[layer] not in (None, found[1]):
            raise HermesError(f"layer {layer} of the row that was kept has unequal parts")
        counts[layer] = found[1]
    return counts

"""Several files of tokens as one long array, memory-mapped when they are first read."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.errors import DataError, StorageError
from hermes.formatting import format_count

__all__ = ["ID_TYPES", "TokenFile", "TokenShards", "TokenSlice", "iterate_blocks", "open_tokens"]

ID_TYPES = ("<u2", "<u4")
OPEN_FILES = 128  # mapped at a time; each takes a descriptor


@dataclass(frozen=True)
class TokenFile:
    """A file of `tokens` ids from byte `offset` on. dtype: '<u2' or '<u4'."""

    path: Path
    dtype: str
    tokens: int
    offset: int = 0


def open_tokens(file: TokenFile) -> NDArray[np.unsignedinteger]:
    """Map a file's tokens into memory. Raises DataError where it is too short, StorageError."""
    needed = file.offset + file.tokens * np.dtype(file.dtype).itemsize
    try:
        size = file.path.stat().st_size
        if size < needed:
            raise DataError(
                f"{file.path}: {format_count(size, 'bytes')} where its "
                f"{format_count(file.tokens, 'tokens take', 'token takes')} {needed:,}; copy or "
                "prepare it again"
            )
        # A plain array of the same memory: slices of a memmap cost many times as much.
        return np.asarray(np.memmap(file.path, file.dtype, "r", file.offset, (file.tokens,)))
    except OSError as error:
        raise StorageError(f"cannot read {file.path}: {error.strerror}") from error


def iterate_blocks(file: TokenFile, size: int = 1 << 20) -> Iterator[NDArray[np.unsignedinteger]]:
    """Yield a file's tokens in blocks, read and not mapped, so that memory does not grow with it.

    Raises DataError where it is too short, StorageError.
    """
    open_tokens(file)
    width = np.dtype(file.dtype).itemsize
    try:
        with open(file.path, "rb") as source:
            source.seek(file.offset)
            for start in range(0, file.tokens, size):
                data = source.read(min(size, file.tokens - start) * width)
                yield np.frombuffer(data, file.dtype)
    except OSError as error:
        raise StorageError(f"cannot read {file.path}: {error.strerror}") from error


class TokenShards:
    """The tokens of several files, one after the other, indexed like an array. (N,)"""

    def __init__(self, files: Sequence[TokenFile]):
        self.files = tuple(files)
        self.dtype = np.result_type(*(np.dtype(file.dtype) for file in files))
        counts = [file.tokens for file in files]
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._starts = self._ends - counts
        self._bounds: list[int] = self._ends.tolist()
        self._map = lru_cache(OPEN_FILES)(lambda number: open_tokens(self.files[number]))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: slice | NDArray[Any]) -> NDArray[np.unsignedinteger]:
        if isinstance(key, slice):
            if key.step is None and key.start is not None and 0 <= key.start <= (key.stop or 0):
                at = bisect_right(self._bounds, key.start)
                if at < len(self.files) and key.stop <= self._bounds[at]:  # in one file, as mostly
                    low = key.start - (self._bounds[at - 1] if at else 0)
                    found = self._map(at)[low : low + key.stop - key.start]
                    return found if found.dtype == self.dtype else found.astype(self.dtype)
            start, stop, step = key.indices(len(self))
            found = self._read(start, max(start, stop) if step > 0 else start)
            return found if step == 1 else found[::step]
        index = np.asarray(key, np.int64)
        if index.size and not 0 <= int(index.min()) <= int(index.max()) < len(self):
            raise IndexError(f"tokens {index.min()} to {index.max()} of {len(self)}")
        found = np.empty(index.shape, self.dtype)
        shard = np.searchsorted(self._ends, index, side="right")
        for number in np.unique(shard).tolist():
            here = shard == number
            found[here] = self._map(number)[index[here] - self._starts[number]]
        return found

    def _read(self, start: int, stop: int) -> NDArray[np.unsignedinteger]:
        first, last = np.searchsorted(self._ends, [start, max(stop - 1, start)], side="right")
        parts = [
            self._map(number)[
                max(start - self._starts[number], 0) : max(stop - self._starts[number], 0)
            ]
            for number in range(int(first), min(int(last), len(self.files) - 1) + 1)
        ]
        return np.concatenate(parts or [np.empty(0, self.dtype)]).astype(self.dtype, copy=False)


class TokenSlice:
    """Tokens start to stop - 1 of others, indexed like an array. (N,)"""

    def __init__(self, tokens: Any, start: int, stop: int):
        self._tokens, self._start, self._size = tokens, start, stop - start
        self.dtype = tokens.dtype

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, key: slice) -> NDArray[np.unsignedinteger]:
        start, stop, step = key.indices(self._size)
        found: NDArray[np.unsignedinteger] = self._tokens[
            self._start + start : self._start + max(start, stop)
        ]
        return found[::step]

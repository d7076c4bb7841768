"""Several files of tokens as one long array, of which what is asked for is read."""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.errors import DataError, StorageError, explain_os_error
from hermes.formatting import format_count
from hermes.process_limits import count_held_files
from hermes.storage.array_file import ArrayFile

__all__ = ["ID_TYPES", "TokenFile", "TokenShards", "TokenSlice", "iterate_blocks", "open_tokens"]

ID_TYPES = ("<u2", "<u4")


@dataclass(frozen=True)
class TokenFile:
    """A file of `tokens` ids from byte `offset` on. dtype: '<u2' or '<u4'."""

    path: Path
    dtype: str
    tokens: int
    offset: int = 0


def open_tokens(file: TokenFile) -> ArrayFile:
    """Open a file's tokens. Raises DataError where it is too short, StorageError."""
    needed = file.offset + file.tokens * np.dtype(file.dtype).itemsize
    try:
        size = file.path.stat().st_size
        if size < needed:
            raise DataError(
                f"{file.path}: {format_count(size, 'bytes')} where its "
                f"{format_count(file.tokens, 'tokens take', 'token takes')} {needed:,}; copy or "
                "prepare it again"
            )
    except OSError as error:
        raise StorageError(f"cannot read {file.path}: {explain_os_error(error)}") from error
    return ArrayFile(file.path, file.dtype, file.tokens, file.offset)


def iterate_blocks(file: TokenFile, size: int = 1 << 20) -> Iterator[NDArray[np.unsignedinteger]]:
    """Yield a file's tokens in blocks. Raises DataError where it is too short, StorageError."""
    tokens = open_tokens(file)
    for start in range(0, file.tokens, size):
        yield tokens[start : start + size]


class TokenShards:
    """The tokens of several files, one after the other, indexed like an array. (N,)"""

    def __init__(self, files: Sequence[TokenFile]):
        self.files = held = tuple(
            files
        )  # not by way of self, or files stay open until a collection
        self.dtype = np.result_type(*(np.dtype(file.dtype) for file in files))
        counts = [file.tokens for file in files]
        self._ends = np.cumsum(counts, dtype=np.int64)
        self._starts = self._ends - counts
        self._bounds: list[int] = self._ends.tolist()
        self._open = lru_cache(count_held_files())(lambda number: open_tokens(held[number]))

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, key: slice) -> NDArray[np.unsignedinteger]:
        if key.step is None and key.start is not None and 0 <= key.start <= (key.stop or 0):
            at = bisect_right(self._bounds, key.start)
            if at < len(self.files) and key.stop <= self._bounds[at]:  # in one file, as mostly
                low = key.start - (self._bounds[at - 1] if at else 0)
                found = self._open(at)[low : low + key.stop - key.start]
                return found if found.dtype == self.dtype else found.astype(self.dtype)
        start, stop, step = key.indices(len(self))
        found = self._read(start, max(start, stop) if step > 0 else start)
        return found if step == 1 else found[::step]

    def _read(self, start: int, stop: int) -> NDArray[np.unsignedinteger]:
        first, last = np.searchsorted(self._ends, [start, max(stop - 1, start)], side="right")
        parts = [
            self._open(number)[
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

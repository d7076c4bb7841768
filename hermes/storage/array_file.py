"""The items of a binary file as an array, read where they are asked for and not memory-mapped.

A map of a file that somebody cuts meanwhile, or whose disk fails, ends the process by SIGBUS and
without a word. A read raises.
"""

import os
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hermes.errors import DataError, StorageError, explain_os_error
from hermes.storage.reading import call_again

__all__ = ["ArrayFile"]


class ArrayFile:
    """`count` items of a file from byte `offset` on. (N,)

    Everything raises DataError where the file is too short by now, and StorageError.
    """

    def __init__(self, path: Path, dtype: DTypeLike, count: int, offset: int = 0):
        self.path, self.dtype = path, np.dtype(dtype)
        self._count, self._offset = count, offset
        self._descriptor = -1
        try:
            self._descriptor = call_again(partial(os.open, path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            raise StorageError(f"cannot read {path}: {explain_os_error(error)}") from error

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, key: slice) -> NDArray[Any]:
        """Read consecutive items, into an array that cannot be changed."""
        start, stop, _ = key.indices(self._count)
        return np.frombuffer(self._read(start, max(stop - start, 0)), self.dtype)

    def take(self, numbers: NDArray[np.integer]) -> NDArray[Any]:
        """Read items anywhere by their numbers, from 0. (K,) -> (K,)"""
        found = [self._read(number, 1) for number in numbers.tolist()]
        return np.frombuffer(b"".join(found), self.dtype)

    def _read(self, start: int, count: int) -> bytes:
        """The bytes of items from number `start` on."""
        width = self.dtype.itemsize
        wanted, offset = count * width, self._offset + start * width
        data = self._read_once(wanted, offset) if count else b""
        while len(data) < wanted:  # more than a call reads, or it was interrupted
            data += self._read_once(wanted - len(data), offset + len(data))
        return data

    def _read_once(self, size: int, offset: int) -> bytes:
        try:  # several times as fast as preadv into an array that is there
            data = call_again(partial(os.pread, self._descriptor, size, offset))
        except OSError as error:
            raise StorageError(f"cannot read {self.path}: {explain_os_error(error)}") from error
        if not data:
            raise DataError(
                f"{self.path} was cut short while it was being read; copy or prepare it again"
            )
        return data

    def __del__(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)

"""A log for people: what happens, a line each, with the time."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

from hermes.storage.addresses import require_local
from hermes.storage.append_only import AppendOnlyFile

__all__ = ["LogFile"]


class LogFile:
    """A block in which the file gets a line for each thing that is said; it only grows.

    An error that ends the block is its last line. path: None writes nothing. Raises StorageError.
    """

    def __init__(self, path: Path | None, clock: Callable[[], float] = time.time):
        self._path, self._clock = path, clock
        self._file: AppendOnlyFile | None = None

    def __enter__(self) -> Self:
        if self._path is not None:
            require_local(self._path)
            self._file = AppendOnlyFile(self._path, lambda line: line.endswith(b"\n"))
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if self._file is None:
            return
        if error is not None:
            self.say(f"ended by {type(error).__name__}: {error}")
        self._file.close()

    def say(self, text: str) -> None:
        """Write a line."""
        if self._file is not None:
            stamp = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self._clock()))
            self._file.append(f"{stamp} {' '.join(text.split())}".encode())

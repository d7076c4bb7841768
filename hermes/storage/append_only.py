"""A file of lines that only grows, durably."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hermes.errors import StorageError, explain_os_error
from hermes.storage.durable import flush

__all__ = ["AppendOnlyFile"]


class AppendOnlyFile:
    """A file of lines that only grows, such as metrics.jsonl.

    Readers see a line as soon as it is appended; it survives a power failure after `sync`. A crash
    may tear the last line. All methods raise StorageError.
    """

    def __init__(self, path: Path, keep_line: Callable[[bytes], bool]):
        """Open or create a file and cut it before the first line that `keep_line` rejects."""
        self._path = path
        with self._translate_errors():
            self._file = open(path, "ab+")  # noqa: SIM115  # closed by `close`
            self._file.seek(0)
            kept = 0
            for line in self._file:
                if not keep_line(line):
                    break
                kept += len(line)
            self._file.truncate(kept)
            self._file.seek(kept)

    def append(self, line: bytes) -> None:
        """Append a line, for readers to see at once."""
        with self._translate_errors():
            self._file.write(line + b"\n")
            self._file.flush()

    def sync(self) -> None:
        """Wait until all lines would survive a power failure."""
        with self._translate_errors():
            flush(self._file.fileno())

    def close(self) -> None:
        """Close the file, which tries once more to write what it could not."""
        with self._translate_errors():
            self._file.close()

    @contextmanager
    def _translate_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise StorageError(f"cannot write {self._path}: {explain_os_error(error)}") from error

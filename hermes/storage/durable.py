"""The one place that changes the disk: files and folders that survive a crash whole, or not at all.

Every operation passes through a Disk that the caller hands in, so that a test can count, refuse
or stop before the n-th. What the operating system refuses becomes StorageError here.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from hermes.errors import HermesError, StorageError
from hermes.storage.reading import list_folder

__all__ = [
    "Disk",
    "FileDigest",
    "Operation",
    "delete_folder",
    "require_space",
    "write_file",
    "write_folder_atomically",
]

BLOCK = 64 * 2**20
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

T = TypeVar("T")


@dataclass(frozen=True)
class Operation:
    """What is about to happen to the disk.

    kind: make folder, create, write, sync, sync folder, rename, delete or delete folder. target:
    the new name of a rename. data: the bytes of a write, which go to the end of `path`.
    """

    kind: str
    path: Path
    target: Path | None = None
    data: bytes | memoryview = b""


class Disk:
    """The operations of the operating system, each announced to `before`, which may raise."""

    def __init__(self, before: Callable[[Operation], None] | None = None):
        self._before = before

    def _run(self, operation: Operation, act: Callable[[], T]) -> T:
        try:
            if self._before:
                self._before(operation)
            return act()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise StorageError(f"cannot {operation.kind} {operation.path}: {reason}") from error

    def make_folder(self, path: Path) -> None:
        """Make a folder that is not there yet."""
        self._run(Operation("make folder", path), lambda: os.mkdir(path))

    def create(self, path: Path) -> int:
        """Open a file that is not there yet, mode 0666 less the umask; the descriptor."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        return self._run(Operation("create", path), lambda: os.open(path, flags, 0o666))

    def write(self, descriptor: int, path: Path, data: memoryview) -> None:
        """Append all of `data`, at most BLOCK bytes at a time."""
        while data:
            block = data[:BLOCK]
            operation = Operation("write", path, data=block)
            data = data[self._run(operation, partial(os.write, descriptor, block)) :]

    def sync(self, descriptor: int, path: Path) -> None:
        """Wait until the file's bytes would survive a power failure."""
        self._run(Operation("sync", path), lambda: _flush(descriptor))

    def sync_folder(self, path: Path) -> None:
        """Wait until the names in a folder would survive a power failure."""

        def act() -> None:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                _flush(descriptor)
            finally:
                os.close(descriptor)

        self._run(Operation("sync folder", path), act)

    def rename(self, path: Path, target: Path) -> None:
        """Give a file or folder another name, in one instant."""
        self._run(Operation("rename", path, target), lambda: os.rename(path, target))

    def delete(self, path: Path) -> None:
        """Remove a file."""
        self._run(Operation("delete", path), lambda: os.unlink(path))

    def delete_folder(self, path: Path) -> None:
        """Remove an empty folder."""
        self._run(Operation("delete folder", path), lambda: os.rmdir(path))


def _flush(descriptor: int) -> None:
    # fsync on macOS leaves the bytes in the drive's own cache; this is what empties it.
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        with suppress(OSError):
            fcntl.fcntl(descriptor, full)
            return
    os.fsync(descriptor)


@dataclass(frozen=True)
class FileDigest:
    """What a file holds: its size in bytes and the SHA-256 of them, in lower-case hex."""

    size: int
    sha256: str


def write_file(
    path: Path,
    chunks: Iterable[bytes | memoryview],
    disk: Disk,
    hasher: ThreadPoolExecutor | None = None,
) -> FileDigest:
    """Write a new file, hash it on the way and sync it; its name is not synced yet.

    With `hasher`, its thread hashes a chunk while this one writes it and makes the next. Raises
    StorageError.
    """
    digest, size = hashlib.sha256(), 0
    pending: Future[None] | None = None
    descriptor = disk.create(path)
    try:
        for chunk in chunks:
            data = memoryview(chunk).cast("B")
            if pending:
                pending.result()
            if hasher:
                pending = hasher.submit(digest.update, data)
            else:
                digest.update(data)
            disk.write(descriptor, path, data)
            size += len(data)
        disk.sync(descriptor, path)
    finally:
        if pending:
            pending.result()
        os.close(descriptor)
    return FileDigest(size, digest.hexdigest())


def delete_folder(path: Path, disk: Disk) -> None:
    """Remove a folder and what is in it; of links, themselves and not what they lead to."""
    for entry in list_folder(path):
        if stat.S_ISDIR(entry.lstat().st_mode):
            delete_folder(entry, disk)
        else:
            disk.delete(entry)
    disk.delete_folder(path)


@contextmanager
def write_folder_atomically(target: Path, disk: Disk) -> Iterator[Path]:
    """A new folder beside `target` to fill and sync, which gets that name when the block ends.

    Where the block raises, nothing of it is left. Raises StorageError.
    """
    parent = target.parent
    beside = parent / f"{TEMPORARY}{target.name}-{secrets.token_hex(4)}"
    try:
        disk.make_folder(beside)
        yield beside
        disk.rename(beside, target)
        disk.sync_folder(parent)
    except BaseException:
        with suppress(HermesError, OSError):
            delete_folder(beside, disk)
        raise


def free_bytes(path: Path) -> int:
    """Bytes that may still be written to the file system of `path`."""
    try:
        space = os.statvfs(path)
    except OSError as error:
        raise StorageError(f"cannot look at {path}: {str(error.strerror).lower()}") from error
    return space.f_bavail * space.f_frsize


def require_space(folder: Path, needed: int) -> None:
    """Refuse before the first byte where `needed` bytes do not fit. Raises StorageError."""
    free = free_bytes(folder)
    if free < needed:
        raise StorageError(
            f"{folder} has {free} bytes free and the checkpoint needs {needed}; "
            "make room or choose another --output"
        )


def is_full(error: StorageError) -> bool:
    """Whether it was space, or the right to more of it, that was missing."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL


TEMPORARY = ".tmp-"

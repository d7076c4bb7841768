"""Durable writes: files and folders that survive a crash whole, or not at all.

The one place where hermes changes files of value. Every operation goes through a Disk, which tests
use to count operations, refuse one or stop before the n-th. Errors of the operating system become
StorageError here.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from hermes.errors import HermesError, StorageError, explain_os_error
from hermes.storage.addresses import require_local
from hermes.storage.reading import list_folder
from hermes.storage.temporary import delete_abandoned, hold_lock

__all__ = [
    "TEMPORARY",
    "Disk",
    "FileDigest",
    "Operation",
    "delete_folder",
    "flush",
    "link_or_copy",
    "write_atomically",
    "write_file",
    "write_folder_atomically",
    "write_unless_there",
]

TEMPORARY = ".tmp-"
"""What the name of an unfinished file or folder begins with."""

BLOCK = 64 * 2**20
# What `link` fails with where a file system has no second names.
NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)

T = TypeVar("T")


@dataclass(frozen=True)
class Operation:
    """One change of the disk, announced before it happens.

    kind: make folder, create, write, sync, sync folder, rename, link, delete or delete folder.
    target: the new name of a rename, the second one of a link. data: the bytes of a write, appended
    to `path`.
    """

    kind: str
    path: Path
    target: Path | None = None
    data: bytes | memoryview = b""


class Disk:
    """The operating system's file operations, each announced to `before`, which may raise."""

    def __init__(self, before: Callable[[Operation], None] | None = None):
        self._before = before

    def _run(self, operation: Operation, act: Callable[[], T]) -> T:
        try:
            if self._before:
                self._before(operation)
            return act()
        except OSError as error:
            reason = explain_os_error(error)
            raise StorageError(f"cannot {operation.kind} {operation.path}: {reason}") from error

    def make_folder(self, path: Path) -> None:
        """Make a folder that does not exist yet."""
        self._run(Operation("make folder", path), lambda: os.mkdir(path))

    def create(self, path: Path) -> int:
        """Create a file that does not exist yet, mode 0666 less the umask. -> its descriptor"""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = self._run(Operation("create", path), lambda: os.open(path, flags, 0o666))
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return descriptor

    def write(self, descriptor: int, path: Path, data: memoryview) -> None:
        """Append all of `data`, at most BLOCK bytes per system call."""
        while data:
            block = data[:BLOCK]
            operation = Operation("write", path, data=block)
            # os.write may write less than it was given; the rest follows in the next turn.
            data = data[self._run(operation, partial(os.write, descriptor, block)) :]

    def sync(self, descriptor: int, path: Path) -> None:
        """Wait until a file's contents would survive a power failure."""
        self._run(Operation("sync", path), lambda: flush(descriptor))

    def sync_folder(self, path: Path) -> None:
        """Wait until the names in a folder would survive a power failure."""

        def act() -> None:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                flush(descriptor)
            except OSError as error:
                # CIFS and some file systems in user space sync no folders; their names are as
                # durable as those systems make them.
                if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
                    raise
            finally:
                os.close(descriptor)

        self._run(Operation("sync folder", path), act)

    def rename(self, path: Path, target: Path) -> None:
        """Rename a file or folder atomically."""
        self._run(Operation("rename", path, target), lambda: os.rename(path, target))

    def link(self, path: Path, target: Path) -> None:
        """Give a file a second name that nothing has yet, atomically."""
        self._run(Operation("link", path, target), lambda: os.link(path, target))

    def delete(self, path: Path) -> None:
        """Delete a file."""
        self._run(Operation("delete", path), lambda: os.unlink(path))

    def delete_folder(self, path: Path) -> None:
        """Delete an empty folder."""
        self._run(Operation("delete folder", path), lambda: os.rmdir(path))


def flush(descriptor: int) -> None:
    """Wait until a file's bytes would survive a power failure."""
    # On macOS fsync leaves the bytes in the drive's own cache; F_FULLFSYNC empties it. File
    # systems that do not know F_FULLFSYNC fall back to fsync.
    full = getattr(fcntl, "F_FULLFSYNC", None)
    if full is not None:
        with suppress(OSError):
            fcntl.fcntl(descriptor, full)
            return
    os.fsync(descriptor)


@dataclass(frozen=True)
class FileDigest:
    """A file's size in bytes and the SHA-256 of its contents, in lower-case hex."""

    size: int
    sha256: str


def write_file(
    path: Path,
    chunks: Iterable[bytes | memoryview],
    disk: Disk,
    hasher: ThreadPoolExecutor | None = None,
) -> FileDigest:
    """Create a file, hash it while writing and sync its contents; the caller syncs its name.

    With `hasher`, its thread hashes a chunk while this thread writes it and makes the next one.
    Raises StorageError.
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


def write_atomically(
    path: Path, data: bytes, *, disk: Disk | None = None, sync_name: bool = True
) -> None:
    """Write a file whole or not at all, replacing the one of that name. Raises StorageError.

    A replaced file keeps its permissions, and a symbolic link stays a link. A device or pipe, such
    as /dev/stdout, is written to directly. sync_name: False where the caller can do without the
    file after a power failure, or syncs its folder before something rests on it.
    """
    disk = disk or Disk()
    require_local(path)
    try:
        mode = path.stat().st_mode if path.exists() else None
        if mode is not None and not stat.S_ISREG(mode):
            path.write_bytes(data)
            return
        real = Path(os.path.realpath(path))
        _replace_file(real, data, mode, disk)
        if sync_name:
            disk.sync_folder(real.parent)
    except (OSError, StorageError) as error:
        raise _name_file(path, error) from (error.__cause__ or error)


def write_unless_there(path: Path, data: bytes, *, disk: Disk) -> bool:
    """Write a file whole unless there is one. Returns whether it was written.

    Of processes that do so at once one writes. On a file system without hard links the last of
    them may replace what the first has written. The caller syncs the name. Raises StorageError.
    """
    beside = _name_beside(path)
    try:
        write_file(beside, [data], disk)
        try:
            disk.link(beside, path)
        except StorageError as error:
            if path.exists():
                return False
            if getattr(error.__cause__, "errno", None) not in NO_LINKS:
                raise
            disk.rename(beside, path)
        return True
    except (OSError, StorageError) as error:
        raise _name_file(path, error) from (error.__cause__ or error)
    finally:
        with suppress(OSError):
            beside.unlink()


def _name_beside(path: Path) -> Path:
    """The name of an unfinished file; what earlier processes left of such files is deleted."""
    delete_abandoned(path.parent, f"{TEMPORARY}{path.name}-")
    return path.with_name(f"{TEMPORARY}{path.name}-{secrets.token_hex(4)}")


def _name_file(path: Path, error: OSError | StorageError) -> StorageError:
    """An error that names the file asked for; the temporary one means nothing to a user."""
    cause = error if isinstance(error, OSError) else error.__cause__
    reason = explain_os_error(cause) if isinstance(cause, OSError) else str(error)
    return StorageError(f"cannot write {path}: {reason}")


def _replace_file(path: Path, data: bytes, mode: int | None, disk: Disk) -> None:
    beside = _name_beside(path)
    try:
        # The contents are synced before the rename: otherwise a power failure could leave the
        # new name with an empty file.
        write_file(beside, [data], disk)
        if mode is not None:
            with suppress(PermissionError):  # a file system without modes
                os.chmod(beside, stat.S_IMODE(mode))
        disk.rename(beside, path)
    except BaseException:
        with suppress(OSError):
            beside.unlink()
        raise


def link_or_copy(source: Path, target: Path, disk: Disk) -> None:
    """Give a file a second name, or copy it where hard links are not possible; sync its contents.

    Raises StorageError.
    """
    try:
        try:
            os.link(source, target)
        except OSError:  # another file system, or one without links
            shutil.copyfile(source, target)
        descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise StorageError(f"cannot write {target}: {explain_os_error(error)}") from error
    try:
        disk.sync(descriptor, target)
    finally:
        os.close(descriptor)


def delete_folder(path: Path, disk: Disk) -> None:
    """Delete a folder and its contents; symbolic links are deleted, not followed."""
    for entry in list_folder(path):
        if stat.S_ISDIR(entry.lstat().st_mode):
            delete_folder(entry, disk)
        else:
            disk.delete(entry)
    disk.delete_folder(path)


@contextmanager
def write_folder_atomically(target: Path, disk: Disk) -> Iterator[Path]:
    """Yield a new folder beside `target` to fill and sync; rename it to `target` at the end.

    Where the block raises, nothing is left of it. Raises StorageError.
    """
    parent, lock = target.parent, -1
    delete_abandoned(parent, f"{TEMPORARY}{target.name}-")
    beside = parent / f"{TEMPORARY}{target.name}-{secrets.token_hex(4)}"
    try:
        disk.make_folder(beside)
        lock = hold_lock(beside)
        yield beside
        disk.rename(beside, target)
        disk.sync_folder(parent)
    except BaseException:
        with suppress(HermesError, OSError):
            delete_folder(beside, disk)
        raise
    finally:
        if lock >= 0:
            os.close(lock)

"""Reading files that may be torn, foreign or not files at all."""

import errno
import hashlib
import os
import stat
from pathlib import Path

from hermes.errors import CheckpointError, StorageError

__all__ = [
    "hash_file",
    "list_folder",
    "open_file",
    "read_into",
    "read_small",
    "read_start",
    "translate_read_error",
]

SMALL = 256 * 2**20
BLOCK = 8 * 2**20
# A file of these is missing, no file or on a bad sector; whatever else is refused may be in order.
TORN = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EIO)


def translate_read_error(path: Path, error: OSError) -> CheckpointError | StorageError:
    """What a refusal to read becomes: damage, where the file is not there or not whole."""
    reason = (error.strerror or str(error)).lower()
    kind = CheckpointError if error.errno in TORN else StorageError
    return kind(f"cannot read {path}: {reason}")


def list_folder(folder: Path) -> list[Path]:
    """What is in a folder, by name. Raises CheckpointError, StorageError."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise translate_read_error(folder, error) from error


def open_file(path: Path) -> tuple[int, int]:
    """The descriptor and size of a regular file; a pipe or device is refused without waiting.

    Raises CheckpointError, StorageError.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        status = os.fstat(descriptor)
    except OSError as error:
        raise translate_read_error(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise CheckpointError(f"cannot read {path}: it is not a file")
    return descriptor, status.st_size


def read_into(descriptor: int, view: memoryview, offset: int, path: Path) -> None:
    """Fill `view` with the bytes from `offset`. Raises CheckpointError, StorageError."""
    while view:
        try:
            count = os.preadv(descriptor, [view[:BLOCK]], offset)
        except OSError as error:
            raise translate_read_error(path, error) from error
        if count == 0:
            raise CheckpointError(f"{path} was cut short while it was being read")
        view, offset = view[count:], offset + count


def read_small(path: Path) -> bytes:
    """A whole file of at most 256 MiB. Raises CheckpointError, StorageError."""
    descriptor, size = open_file(path)
    try:
        if size > SMALL:
            raise CheckpointError(f"{path} has {size} bytes, more than the {SMALL} it may have")
        data = bytearray(size)
        read_into(descriptor, memoryview(data), 0, path)
        return bytes(data)
    finally:
        os.close(descriptor)


def read_start(path: Path, count: int) -> bytes:
    """A file's first bytes, fewer where it has fewer. Raises CheckpointError, StorageError."""
    descriptor, size = open_file(path)
    try:
        data = bytearray(min(count, size))
        read_into(descriptor, memoryview(data), 0, path)
        return bytes(data)
    finally:
        os.close(descriptor)


def hash_file(path: Path) -> str:
    """The SHA-256 of a file's bytes, in lower-case hex. Raises CheckpointError, StorageError."""
    descriptor, size = open_file(path)
    try:
        digest, buffer = hashlib.sha256(), memoryview(bytearray(min(BLOCK, size)))
        for start in range(0, size, BLOCK):
            part = buffer[: min(BLOCK, size - start)]
            read_into(descriptor, part, start, path)
            digest.update(part)
        return digest.hexdigest()
    finally:
        os.close(descriptor)

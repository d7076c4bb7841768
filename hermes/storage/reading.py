"""Reads files that may be truncated, damaged, hostile or not regular files at all."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from hermes.errors import CheckpointError, DataError, StorageError, explain_os_error
from hermes.stages import report_stage

__all__ = [
    "SMALL",
    "call_again",
    "hash_file",
    "list_folder",
    "open_file",
    "read_bounded",
    "read_into",
    "read_small",
    "read_start",
    "translate_read_error",
]

SMALL = 256 * 2**20
BLOCK = 8 * 2**20
# With these errors the file is missing, not a file or damaged. Any other error (no permission, too
# many open files, ...) says nothing about the file.
TORN = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EISDIR, errno.ENXIO, errno.EIO)

# What a server that is busy or was started anew answers to one call and not to the next.
PASSING = (errno.EIO, errno.ESTALE)

T = TypeVar("T")


def call_again(call: Callable[[], T]) -> T:
    """Call once more what a network file system refused for the moment; a bad disk fails again."""
    try:
        return call()
    except OSError as error:
        if error.errno not in PASSING:
            raise
    return call()


def translate_read_error(path: Path, error: OSError) -> CheckpointError | StorageError:
    """Make a CheckpointError where the error means a damaged file, else a StorageError."""
    reason = explain_os_error(error)
    kind = CheckpointError if error.errno in TORN else StorageError
    return kind(f"cannot read {path}: {reason}")


def list_folder(folder: Path) -> list[Path]:
    """List a folder in the order of names. Raises CheckpointError, StorageError."""
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise translate_read_error(folder, error) from error


def open_file(path: Path) -> tuple[int, int]:
    """Open a regular file; return its descriptor and its size in bytes.

    Raises CheckpointError, also for a pipe or device, and StorageError.
    """
    try:
        # O_NONBLOCK: opening a pipe would otherwise wait for its writer.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK
        descriptor = call_again(partial(os.open, path, flags))
        status = os.fstat(descriptor)
    except OSError as error:
        raise translate_read_error(path, error) from error
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise CheckpointError(f"cannot read {path}: it is not a file")
    return descriptor, status.st_size


def read_into(descriptor: int, view: memoryview, offset: int, path: Path) -> None:
    """Fill `view` with a file's bytes from `offset` on. Raises CheckpointError, StorageError."""
    while view:
        try:
            count = call_again(partial(os.preadv, descriptor, [view[:BLOCK]], offset))
        except OSError as error:
            raise translate_read_error(path, error) from error
        if count == 0:
            raise CheckpointError(f"{path} was cut short while it was being read")
        view, offset = view[count:], offset + count


def read_small(path: Path) -> bytes:
    """Read a whole file of at most 256 MiB. Raises CheckpointError, StorageError."""
    descriptor, size = open_file(path)
    try:
        if size > SMALL:
            raise CheckpointError(f"{path} has {size} bytes, more than the {SMALL} it may have")
        data = bytearray(size)
        read_into(descriptor, memoryview(data), 0, path)
        return bytes(data)
    finally:
        os.close(descriptor)


def read_bounded(path: Path, most: int = SMALL) -> bytes:
    """Read a whole file of the user's, or what comes through a pipe, of at most so many bytes.

    Raises DataError where there are more, and OSError.
    """
    with open(path, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise DataError(f"{path} has more than {most:,} bytes, which are too many to be read whole")
    return data


def read_start(path: Path, count: int) -> bytes:
    """Read up to the first `count` bytes of a file. Raises CheckpointError, StorageError."""
    descriptor, size = open_file(path)
    try:
        data = bytearray(min(count, size))
        read_into(descriptor, memoryview(data), 0, path)
        return bytes(data)
    finally:
        os.close(descriptor)


def hash_file(path: Path, watch: Callable[[int], None] | None = None) -> str:
    """Compute a file's SHA-256, in lower-case hex. Raises CheckpointError, StorageError.

    watch: told the bytes of each block once it is hashed; None to report a stage.
    """
    descriptor, size = open_file(path)
    try:
        digest, buffer = hashlib.sha256(), memoryview(bytearray(min(BLOCK, size)))
        for start in range(0, size, BLOCK):
            part = buffer[: min(BLOCK, size - start)]
            read_into(descriptor, part, start, path)
            digest.update(part)
            if watch is None:
                report_stage(f"verifying {path}", start, size)
            else:
                watch(len(part))
        if watch is None:
            report_stage("")
        return digest.hexdigest()
    finally:
        os.close(descriptor)

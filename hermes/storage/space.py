"""How much can still be written to a disk."""

import errno
import os
from pathlib import Path

from hermes.errors import StorageError, explain_os_error

__all__ = ["count_free_bytes", "is_full", "require_space"]

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def count_free_bytes(path: Path) -> int | None:
    """Bytes that can still be written to the file system of `path`; None where it does not say.

    One in user space (FUSE) may say that it has no blocks at all. Raises StorageError.
    """
    try:
        space = os.statvfs(path)
    except OSError as error:
        raise StorageError(f"cannot look at {path}: {explain_os_error(error)}") from error
    return space.f_bavail * space.f_frsize if space.f_blocks else None


def require_space(folder: Path, needed: int) -> None:
    """Raise StorageError, before anything is written, where `needed` bytes do not fit."""
    free = count_free_bytes(folder)
    if free is not None and free < needed:
        raise StorageError(
            f"{folder} has {free} bytes free and the checkpoint needs {needed}; "
            "make room or choose another --output"
        )


def is_full(error: StorageError) -> bool:
    """Whether the disk was full or a quota or file size limit was reached."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno in FULL

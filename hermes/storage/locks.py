"""Whether a file system has locks: Lustre and NFS may be mounted without."""

import errno
import fcntl
import tempfile
from pathlib import Path

__all__ = ["NO_LOCKS", "has_locks"]

# What `flock` fails with where there are no locks at all.
NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


def has_locks(folder: Path) -> bool:
    """Whether files in a folder that can be written to can be locked."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

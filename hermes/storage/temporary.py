"""Temporary files and folders that a killed process does not leave behind for ever.

Whoever makes one holds a lock on it, which the operating system releases when its process ends in
whatever way. The next one who makes something of that name deletes what nobody holds.
"""

import fcntl
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from hermes.errors import StorageError, explain_os_error

__all__ = ["TemporaryFolder", "delete_abandoned", "find_temporary_folder", "hold_lock"]

PREFIX = "hermes-"
# Seconds after its last change from which on an unlocked file is abandoned: one that has just been
# made is locked a moment later.
AGE = 60.0


def find_temporary_folder() -> Path:
    """Find the system's folder for temporary files. Raises StorageError where there is none."""
    try:
        return Path(tempfile.gettempdir())
    except OSError as error:  # as in a container whose disk is read-only
        reason = explain_os_error(error)
        raise StorageError(f"{reason}; set TMPDIR to a folder that can be written to") from error


def hold_lock(path: Path) -> int:
    """Lock a file or folder for as long as the returned descriptor is open; -1 where none can be.

    Some network file systems have no locks; what is made there is left to its owner.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return -1
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return -1
    return descriptor


def delete_abandoned(parent: Path, prefix: str, *, age: float = AGE) -> list[Path]:
    """Delete this user's files and folders that begin with `prefix` and that nobody holds.

    age: seconds since the last change. Returns what was deleted; what cannot be stays.
    """
    deleted = []
    with suppress(OSError):
        for entry in sorted(parent.iterdir()):
            if entry.name.startswith(prefix) and _is_abandoned(entry, age):
                if entry.is_dir():
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    entry.unlink(missing_ok=True)
                deleted.append(entry)
    return deleted


def _is_abandoned(path: Path, age: float) -> bool:
    facts = path.lstat()
    # One from the future is old, too: the clock was set back since.
    if facts.st_uid != os.getuid() or abs(time.time() - facts.st_mtime) < age:
        return False
    descriptor = hold_lock(path)
    if descriptor < 0:
        return False
    os.close(descriptor)
    return True


class TemporaryFolder:
    """A new folder that is deleted with the block, by `delete`, or by the next one after a kill.

    name: the folder that it was made as. Raises StorageError where it cannot be made.
    """

    def __init__(self, what: str, directory: str | Path | None = None):
        prefix = f"{PREFIX}{what}-"
        parent = Path(directory) if directory else find_temporary_folder()
        try:
            delete_abandoned(parent, prefix)
            self._folder = tempfile.TemporaryDirectory(prefix=prefix, dir=parent)
        except OSError as error:
            reason = explain_os_error(error)
            raise StorageError(f"cannot write {what} to {parent}: {reason}") from error
        self.name = self._folder.name
        self._descriptor = hold_lock(Path(self.name))

    def delete(self) -> None:
        """Delete the folder and all in it."""
        self._folder.cleanup()
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def __enter__(self) -> str:
        return self.name

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.delete()

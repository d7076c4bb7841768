"""One process per run: a lock that the operating system lets go of when its holder dies."""

import errno
import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from hermes.errors import CheckpointError, HermesError, StorageError
from hermes.storage.strict_json import parse_json, render_json

__all__ = ["RunLock"]

NAME = ".lock"


class RunLock:
    """Holds a run's folder for this process, from construction until `close` or its end.

    The file `.lock` says who: process and host. It stays when the lock is gone and means nothing
    then. Raises HermesError where another process holds it, StorageError where it cannot be taken.
    """

    def __init__(self, run: Path):
        self._path = run / NAME
        self._made = not run.exists()
        try:
            run.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise StorageError(
                f"cannot write to {run}: {(error.strerror or str(error)).lower()}"
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            holder = render_json({"host": socket.gethostname(), "process": os.getpid()})
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, holder, 0)
        except OSError as error:
            refusal = self._explain_refusal(run, error)
            self.close()
            raise refusal from error

    def _explain_refusal(self, run: Path, error: OSError) -> HermesError:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            reason = (error.strerror or str(error)).lower()
            return StorageError(f"cannot lock {self._path}: {reason}")
        try:
            holder = parse_json(os.pread(self._descriptor, 4096, 0), str(self._path))
            who = f"process {holder['process']} on {holder['host']}"
        except (CheckpointError, OSError, LookupError, TypeError):
            who = "another process"
        return HermesError(f"run {str(run)!r} is in use by {who}; wait for it or stop it")

    def close(self) -> None:
        """Let go of the run."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def remove_new_folder(self) -> None:
        """Remove a folder that was made for the lock, unless something else is in it by now."""
        if self._made:
            self._path.unlink(missing_ok=True)
            with suppress(OSError):
                self._path.parent.rmdir()

    def __enter__(self) -> "RunLock":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

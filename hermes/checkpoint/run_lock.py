"""A lock on a run's folder, which the operating system releases when its holder dies."""

import errno
import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from hermes.errors import CheckpointError, HermesError, StorageError, explain_os_error
from hermes.storage.locks import NO_LOCKS
from hermes.storage.strict_json import parse_json, render_json

__all__ = ["RunLock"]

NAME = ".lock"


class RunLock:
    """Locks a run's folder for this process, from construction until `close` or its exit.

    The file `.lock` names the holder's process and host. It remains after the lock is released,
    empty unless the holder was killed, and means nothing then: only the flock on it counts.

    required: False to do without where the file system has no locks, as Lustre mounted without
    flock; `notes` then has a sentence for the user. Raises HermesError where another process holds
    the lock, StorageError where it cannot be taken.
    """

    def __init__(self, run: Path, *, required: bool = True):
        self._path = run / NAME
        self.notes: tuple[str, ...] = ()
        self._made, self._held = not run.exists(), False
        try:
            run.mkdir(parents=True, exist_ok=True)
            _refuse_links(run)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            self._descriptor = os.open(self._path, flags, 0o666)
        except OSError as error:
            raise StorageError(f"cannot write to {run}: {explain_os_error(error)}") from error
        try:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if required or error.errno not in NO_LOCKS:
                    raise
                reason = explain_os_error(error)
                self.notes = (
                    f"{run} cannot be locked ({reason}), so a second process that trains in it "
                    "is not refused; start none",
                )
            self._held = True
            # Written in place: an atomic replacement would be another file, which nobody locked.
            holder = render_json({"host": socket.gethostname(), "process": os.getpid()})
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, holder, 0)
        except OSError as error:
            refusal = self._explain_refusal(run, error)
            self.close()
            raise refusal from error

    def _explain_refusal(self, run: Path, error: OSError) -> HermesError:
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            reason = explain_os_error(error)
            return StorageError(f"cannot lock {self._path}: {reason}")
        try:
            holder = parse_json(os.pread(self._descriptor, 4096, 0), str(self._path))
            who = f"process {holder['process']} on {holder['host']}"
        except (CheckpointError, OSError, LookupError, TypeError):
            who = "another process"
        return HermesError(f"run {str(run)!r} is in use by {who}; wait for it or stop it")

    def close(self) -> None:
        """Release the lock, and empty the file, which then names no holder."""
        if self._descriptor >= 0:
            if self._held:
                with suppress(OSError):
                    os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = -1

    def remove_new_folder(self) -> None:
        """Remove the run's folder if this lock created it and nothing else is in it."""
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


def _refuse_links(run: Path) -> None:
    """Refuse files of a run that are links out of its folder: a run writes to its files.

    Whoever sent the folder chose where they lead. Checkpoints may lie elsewhere: what a run writes
    of them is new. Raises StorageError, OSError.
    """
    here = Path(os.path.realpath(run))
    for entry in sorted(run.iterdir()):
        target = Path(os.path.realpath(entry))
        if entry.is_symlink() and not entry.is_dir() and not target.is_relative_to(here):
            raise StorageError(
                f"{entry} is a link to {target}, outside of the run, which would write there; "
                "remove it"
            )

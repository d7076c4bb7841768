"""What a process of several leaves behind where the run fails: its stacks and its traceback.

OUTPUT/logs/rank-3.txt is rank 3's; what its user reads at once is a line, told by one of them.
"""

import datetime
import faulthandler
import os
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import click

from hermes.errors import HermesError, PeerLost, StorageError
from hermes.processes import Processes

__all__ = ["Journal", "logs_of"]

# Of the time in which a backend may end the process: the stacks are written before.
BEFORE = 0.9
QUIET = (click.ClickException, click.exceptions.Exit, click.Abort, KeyboardInterrupt, SystemExit)


class _Failed(HermesError):
    """What nobody expected; a journal has its traceback."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.exit_code = code


class _Lost(PeerLost):
    """What a journal has written down already."""


def logs_of(output: Path) -> Path:
    """Where the processes of a run leave their stacks."""
    return output / "logs"


class Journal:
    """A block. A refusal that all processes have alike is rank 0's to tell; the others end quietly.

    output: the run's folder; None where there is none to write into.
    """

    def __init__(self, processes: Processes, output: Path | None):
        self._processes, self._place = processes, processes.place
        self._path = output and logs_of(output) / f"rank-{self._place.rank}.txt"
        self._file: TextIO | None = None
        self._begins = 0

    def __enter__(self) -> "Journal":
        return self

    def polling(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """`stop`, each call of which says that this process is not stuck.

        Where it comes too late the stacks of all threads are written down, by a thread that needs
        no interpreter.
        """
        if self._place.size == 1 or self._path is None:
            return stop
        file = self._file = self._opened(self._path)
        self._begins = os.fstat(file.fileno()).st_size
        faulthandler.enable(file)

        def polled() -> bool:
            if os.fstat(file.fileno()).st_size > self._begins:
                os.ftruncate(file.fileno(), self._begins)  # it was slow, and went on
            faulthandler.dump_traceback_later(BEFORE * self._place.timeout, file=file)
            return stop()

        faulthandler.dump_traceback_later(BEFORE * self._place.first_timeout, file=file)
        return polled

    def _opened(self, path: Path) -> TextIO:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        place = self._place
        host = f"host {socket.gethostname()}, process {os.getpid()}"
        file.write(f"rank {place.rank} of {place.size}, {host}, {now}\n")
        file.flush()
        return file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is not None and self._place.size > 1:
                self._told(error)
        finally:
            if self._file is not None:
                faulthandler.cancel_dump_traceback_later()
                faulthandler.disable()
                self._file.close()

    def _told(self, error: BaseException) -> None:
        """Write down what there is to write, and raise what a user should read."""
        if isinstance(error, (*QUIET, _Failed, _Lost)):
            return
        rank = self._place.rank
        if isinstance(error, PeerLost):
            where = self._written(error)
            if error.told_by not in (None, rank):
                raise click.exceptions.Exit(PeerLost.exit_code)
            raise _Lost(f"{error}{where}") from error
        own = not isinstance(error, HermesError)
        sentence = f"{type(error).__name__}: {error}" if own else str(error)
        self._processes.leave(sentence)
        if own:
            code = StorageError.exit_code if isinstance(error, OSError) else HermesError.exit_code
            where = self._written(error)
            raise _Failed(f"rank {rank} ({socket.gethostname()}) failed: {sentence}{where}", code)
        # The disk of one machine is not that of all.
        alone = self._file is not None and isinstance(error, StorageError)
        if isinstance(error, HermesError) and rank > 0 and not alone:
            raise click.exceptions.Exit(error.exit_code)

    def _written(self, error: BaseException) -> str:
        """Write the traceback, all threads' stacks and the last collectives; where they are."""
        if self._path is None:
            return ""
        try:
            file = self._file = self._file or self._opened(self._path)
            file.write("".join(traceback.format_exception(error)))
            file.write(f"asked of the others last:\n{self._processes.history()}\n")
            file.flush()
            faulthandler.dump_traceback(file)
        except OSError:
            return ""
        return f"; stacks are in {self._path.parent}"

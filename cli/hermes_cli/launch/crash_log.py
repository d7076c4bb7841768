"""The stacks and the traceback that a rank leaves behind when a distributed run fails.

They are in OUTPUT/logs/rank-3.txt for rank 3. The user sees one line, from one of the ranks.
"""

import datetime
import faulthandler
import os
import signal
import socket
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import click

from hermes.distributed.process_group import ProcessGroup
from hermes.errors import (
    HermesError,
    Interrupted,
    NonFinite,
    OutOfMemory,
    PeerLost,
    StorageError,
    is_out_of_memory,
)

__all__ = ["WRITE_STACKS", "CrashLog", "write_stacks"]

# Of the time in which a backend may end the process: the stacks are written before.
BEFORE = 0.9
# At this signal a rank that trains writes its stacks, whatever it is doing; before, it ends.
WRITE_STACKS = signal.SIGUSR2
# What all processes meet alike, as the loss is that of all.
COMMON = (Interrupted, NonFinite)
QUIET = (click.ClickException, click.exceptions.Exit, click.Abort, KeyboardInterrupt, SystemExit)


class _Failed(HermesError):
    """An error that this rank has reported under its own name; it is not reported again."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.exit_code = code


class _Lost(PeerLost):
    """A lost peer whose stacks are in the log already."""


def get_log_path(output: Path, rank: int) -> Path:
    """The crash log of a rank of the run in that folder."""
    return output / "logs" / f"rank-{rank}.txt"


def write_stacks(output: Path, rank: int) -> str:
    """Write the stacks of all threads to a rank's log, if it has begun one; words for where."""
    path = get_log_path(output, rank)
    try:
        if not path.exists():
            return ""
        with path.open("a", encoding="utf-8") as file:
            faulthandler.dump_traceback(file)
    except OSError:
        return ""
    return f"; stacks are in {path.parent}"


class CrashLog:
    """A block whose error is reported once, though every rank may raise it.

    An error that all ranks know of is reported by rank 0 and by the rank that caused it. An error
    of one rank alone is reported by that rank, with its rank and host. output: the run's folder,
    None where nothing can be written.
    """

    def __init__(self, process_group: ProcessGroup, output: Path | None):
        self._processes, self._rank_info = process_group, process_group.rank_info
        self._path = output and get_log_path(output, self._rank_info.rank)
        self._file: TextIO | None = None
        self._begins = 0

    def __enter__(self) -> "CrashLog":
        return self

    def watch(self, stop: Callable[[], bool]) -> Callable[[], bool]:
        """Wrap `stop`, so that each call of it shows that this process is not stuck.

        If no call comes in time, faulthandler writes the stacks of all threads, from a thread that
        does not need the interpreter.
        """
        if self._rank_info.world_size == 1 or self._path is None:
            return stop
        file = self._file = self._open_file(self._path)
        self._begins = os.fstat(file.fileno()).st_size
        faulthandler.enable(file)
        faulthandler.register(WRITE_STACKS, file)

        def polled() -> bool:
            if os.fstat(file.fileno()).st_size > self._begins:  # it was slow, and went on
                faulthandler.cancel_dump_traceback_later()  # it waits for stacks half written
                os.ftruncate(file.fileno(), self._begins)
            faulthandler.dump_traceback_later(BEFORE * self._rank_info.timeout, file=file)
            return stop()

        faulthandler.dump_traceback_later(BEFORE * self._rank_info.first_timeout, file=file)
        return polled

    def _open_file(self, path: Path) -> TextIO:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a", encoding="utf-8")
        now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
        rank_info = self._rank_info
        host = f"host {socket.gethostname()}, process {os.getpid()}"
        file.write(f"rank {rank_info.rank} of {rank_info.world_size}, {host}, {now}\n")
        file.flush()
        return file

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if error is not None and self._rank_info.world_size > 1:
                self._report(error)
        finally:
            if self._file is not None:
                faulthandler.cancel_dump_traceback_later()
                faulthandler.unregister(WRITE_STACKS)
                faulthandler.disable()
                self._file.close()

    def _report(self, error: BaseException) -> None:
        """Write the log, and raise what the user should read."""
        if isinstance(error, (*QUIET, _Failed, _Lost)):
            return
        rank = self._rank_info.rank
        if isinstance(error, PeerLost):
            where = self._write_report(error)
            if error.reported_by not in (None, rank):
                raise click.exceptions.Exit(PeerLost.exit_code)
            raise _Lost(f"{error}{where}") from error
        if not isinstance(error, HermesError):
            code = StorageError.exit_code if isinstance(error, OSError) else HermesError.exit_code
            code = OutOfMemory.exit_code if is_out_of_memory(error) else code
            sentence = f"{type(error).__name__}: {error}"
            self._processes.leave(sentence)
            where = self._write_report(error)
            raise _Failed(f"rank {rank} ({socket.gethostname()}) failed: {sentence}{where}", code)
        self._processes.leave(str(error))
        if rank > 0:
            self._raise_refusal(error, 0 if isinstance(error, COMMON) else error.reported_by)

    def _raise_refusal(self, error: HermesError, reported_by: int | None) -> None:
        """Raise what the user of a rank other than 0 should read."""
        rank = self._rank_info.rank
        if reported_by is None:
            self._write_report(error)
            raise _Failed(f"rank {rank} ({socket.gethostname()}): {error}", error.exit_code)
        if reported_by == rank:  # in the words in which rank 0 says it
            raise _Failed(f"rank {rank}: {error}", error.exit_code)
        raise click.exceptions.Exit(error.exit_code)

    def _write_report(self, error: BaseException) -> str:
        """Write the traceback, all stacks and the last collectives; returns words for where."""
        if self._path is None:
            return ""
        try:
            file = self._file = self._file or self._open_file(self._path)
            file.write("".join(traceback.format_exception(error)))
            file.write(f"asked of the others last:\n{self._processes.history()}\n")
            file.flush()
            faulthandler.dump_traceback(file)
        except OSError:
            return ""
        return f"; stacks are in {self._path.parent}"

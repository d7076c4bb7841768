"""Supervises workers: forwards signals, ends those that outlive a lost one, reports the outcome."""

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import active_children, util
from pathlib import Path
from shutil import rmtree

import click

from hermes.errors import Interrupted, PeerLost, StorageError
from hermes.storage.space import count_free_bytes
from hermes.storage.temporary import TemporaryFolder
from hermes_cli.launch.crash_log import WRITE_STACKS
from hermes_cli.launch.hang_watch import HangWatch, is_stopped
from hermes_cli.launch.signals import CAUGHT, INTERRUPTED, Signals
from hermes_cli.launch.signals import GRACE as GRACE_OF_SIGNALS
from hermes_cli.launch.worker_status import WorkerStatus, read_statuses

__all__ = ["LONGEST_GRACE", "POLL", "Death", "StartWorkers", "Writing", "supervise"]

POLL = 0.1
ROOM = 1_000_000  # bytes for what workers report, and the addresses by which they find each other
# Seconds without an end after which those that remain, once one is lost, hang; and at most. Neither
# runs while rank 0 writes a checkpoint.
GRACE, LONGEST_GRACE = 4.0, 8.0
# Seconds after which one that was handed a signal does not hear it. While workers start all end
# then: they import for as long as the machine lets them, and have nothing to save.
DEAF = 2 * GRACE_OF_SIGNALS
LAST_WORD = 1.0  # seconds for the stacks of one that was stopped
LOST = PeerLost.exit_code
STOPS = (Interrupted.exit_code, INTERRUPTED)  # asked for
WELL = (0, Interrupted.exit_code)  # what all of them end with, if any does


@dataclass(frozen=True)
class Death:
    """The end of a worker that could not report it. trace: what else is known of it."""

    rank: int
    pid: int
    code: int
    trace: str = ""

    def describe(self) -> str:
        """The line for the user."""
        if self.code >= 0:
            trace = f":\n{self.trace}" if self.trace else " without a word"
            how = "failed" if self.code else "ended before the run did,"
            return f"Error: rank {self.rank} (process {self.pid}) {how}{trace}"
        name = signal.Signals(-self.code).name
        return f"Error: rank {self.rank} (process {self.pid}) was ended by {name}, so all ended"


# Starts processes that report to a folder, and returns when all have ended, with the first death
# that nobody else told of.
StartWorkers = Callable[[str], Death | None]


@dataclass(frozen=True)
class Writing:
    """Whether rank 0 is writing a checkpoint, and for how long it may after another rank is lost.

    patience: seconds.
    """

    now: Callable[[], bool] = lambda: False
    patience: float = 0.0

    def may_continue(self, lost: float) -> bool:
        """Whether rank 0 may finish the checkpoint it is writing. lost: when a rank was lost."""
        return time.monotonic() - lost < self.patience and self.now()


NOTHING = Writing()


def supervise(
    start: StartWorkers,
    signals: Signals,
    restarts: int = 0,
    *,
    writing: Writing = NOTHING,
    work_limit: float | None = None,
    words: str = "",
) -> None:
    """Run workers until all have ended; report once what several report. Raises click's Exit.

    work_limit: that of HangWatch, whose limit is the patience with what is written.
    words: what is said at a signal once the workers have met.
    """
    with TemporaryFolder("processes") as folder:
        _require_room(Path(folder))
        signals.ends = lambda: _end_all(folder)
        supervisor = _Supervisor(start, folder, signals, restarts, writing, work_limit, words)
        supervisor.run()
        code = supervisor.report()
    if code:
        raise click.exceptions.Exit(code)


def _require_room(folder: Path) -> None:
    """Raise StorageError where workers could not report to their launcher."""
    free = count_free_bytes(folder)
    if free is not None and free < ROOM:
        raise StorageError(
            f"{folder.parent} has {free} bytes free, and processes that start need {ROOM} there "
            "for what they report; make room or set TMPDIR to another folder"
        )


class _Supervisor:
    def __init__(
        self,
        start: StartWorkers,
        folder: str,
        signals: Signals,
        restarts: int,
        writing: Writing = NOTHING,
        work_limit: float | None = None,
        words: str = "",
    ):
        self._words = words
        self._start, self._folder, self._signals = start, folder, signals
        self._restarts, self._writing = restarts, writing
        self._told: list[WorkerStatus] = []
        self._deaths: list[Death] = []
        self._crashed: list[BaseException] = []
        self._asked: dict[int, float] = {}  # when each pid was handed the signal
        self._hung: dict[int, WorkerStatus] = {}
        self._warned: set[str] = set()
        self._attempt, self._ends, self._quiet_since = 0, 0, 0.0
        self._lost_since: float | None = None
        self._woken_at = self._wrote_at = 0.0
        self._hangs = HangWatch(folder, writing.patience, work_limit)
        self._done_since: float | None = None
        self._stuck: dict[int, float] = {}  # since when one that has ended was seen stopped
        self._how: dict[int, str] = {}  # pid -> how it hung, where that is known

    def run(self) -> None:
        """Wait until all workers have ended."""
        # torch's agent puts handlers on signals where it runs in the main thread.
        thread = threading.Thread(target=self._run, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(POLL)
            self._told = read_statuses(self._folder)
            self._set_grace()
            self._look()
            if self._is_done():
                self._send(signal.SIGKILL, (one for one in self._told if _is_alive(one.pid)))
                break
        self._told = read_statuses(self._folder)
        self._signals.grace = None  # nothing is left but to say how all ended
        if self._crashed:
            raise self._crashed[0]

    def _run(self) -> None:
        # Workers inherit this until they can handle a signal: Ctrl-C reaches all of a terminal.
        signal.pthread_sigmask(signal.SIG_BLOCK, CAUGHT)
        try:
            if death := self._start(self._folder):
                self._deaths.append(death)
        except BaseException as error:
            self._crashed.append(error)

    def _set_grace(self) -> None:
        """Once the workers have met, wait for what they save; before, they have nothing."""
        attempt = max((one.attempt for one in self._told), default=0)
        has_met = any(one.joined for one in self._told if one.attempt == attempt)
        self._signals.grace = None if has_met else DEAF
        self._signals.words = self._words if has_met else ""

    def _look(self) -> None:
        attempt = max((one.attempt for one in self._told), default=0)
        here = [one for one in self._told if one.attempt == attempt]
        self._warn(here)
        if attempt > self._attempt:
            self._begin_again(attempt)
        running = [one for one in here if one.code is None and _is_alive(one.pid)]
        if self._signals.has_come():
            # One that has just begun is asked as soon as it is known.
            self._send(signal.SIGTERM, (one for one in running if one.pid not in self._asked))
            self._asked = {one.pid: time.monotonic() for one in running} | self._asked
            # A ring of MLX that waits for a neighbour hears nothing, and has nothing to save.
            deaf = (one for one in running if not one.joined and self._is_overdue(one))
            self._send(signal.SIGKILL, deaf)
        else:
            # torch's agent has interrupted who was still starting, and each waits for all the rest.
            waits = [one for one in here if one.code == INTERRUPTED and one.pid not in self._asked]
            self._send(signal.SIGTERM, waits)
            self._asked |= {one.pid: time.monotonic() for one in waits}
        self._end_hung(running)
        self._resume_stopped([one for one in here if one not in running])
        now, ends = time.monotonic(), len(here) - len(running)
        if ends != self._ends:
            self._ends, self._quiet_since = ends, now
        # Who ends with no word is missed too.
        if self._lost_since is None and any(
            one.code not in WELL and one not in running for one in here
        ):
            self._lost_since = now
        if self._lost_since is None:
            return
        if any(one.rank == 0 for one in running) and self._writing.may_continue(self._lost_since):
            self._wrote_at = now
        quiet = now - max(self._quiet_since, self._wrote_at)
        if quiet > GRACE or now - max(self._lost_since, self._wrote_at) > LONGEST_GRACE:
            if not self._woken_at:
                self._hung |= {one.pid: one for one in running}
                self._woken_at = now
                self._send(signal.SIGCONT, running)
            elif now - self._woken_at > LAST_WORD:
                # Who has said how it ended has nothing left to do either.
                self._send(signal.SIGKILL, (one for one in here if _is_alive(one.pid)))

    def _end_hung(self, running: list[WorkerStatus]) -> None:
        """Kill each worker that was stopped, or hung before the first step, beyond the limit."""
        for one, how in self._hangs.find(running):
            asked = one.pid in self._hung or not how  # one that is stopped cannot write
            self._hung[one.pid], self._how[one.pid] = one, how
            self._send(signal.SIGKILL if asked else WRITE_STACKS, [one])

    def _resume_stopped(self, ended: list[WorkerStatus]) -> None:
        """Wake those that were stopped after their last word: torch's agent waits for each."""
        now = time.monotonic()
        stopped = {one.pid for one in ended if _is_alive(one.pid) and is_stopped(one.pid)}
        self._stuck = {pid: self._stuck.get(pid, now) for pid in stopped}
        stuck = [one for one in ended if now - self._stuck.get(one.pid, now) > GRACE]
        self._send(signal.SIGCONT, stuck)

    def _is_done(self) -> bool:
        """Whether all are long done, and their agent waits for one that cannot answer."""
        last = [one for one in self._told if one.attempt == self._attempt]
        if not last or any(one.code != 0 for one in last):
            self._done_since = None
            return False
        self._done_since = self._done_since or time.monotonic()
        return time.monotonic() - self._done_since > 2 * LONGEST_GRACE

    def _is_overdue(self, one: WorkerStatus) -> bool:
        """Whether a worker was handed a signal so long ago that it does not hear it."""
        return time.monotonic() - self._asked.get(one.pid, math.inf) > DEAF

    def _warn(self, told: Iterable[WorkerStatus]) -> None:
        for line in _collect_lines(told, warnings=True):
            if line not in self._warned:
                self._warned.add(line)
                click.echo(line, err=True)

    def _begin_again(self, attempt: int) -> None:
        """Report why the agent restarted all workers; the workers that it ended cannot."""
        ended = [one for one in self._told if one.attempt == attempt - 1]
        for line in _collect_lines(ended)[:1]:
            click.echo(line, err=True)
        click.echo(
            f"start {attempt + 1} of at most {self._restarts + 1}, from the last checkpoint",
            err=True,
        )
        self._attempt, self._ends, self._lost_since = attempt, 0, None
        self._hung, self._woken_at, self._wrote_at = {}, 0.0, 0.0
        self._hangs.forget()

    @staticmethod
    def _send(number: signal.Signals, to: Iterable[WorkerStatus]) -> None:
        for one in to:
            with suppress(ProcessLookupError, PermissionError):  # its number may be another's
                os.kill(one.pid, number)

    def report(self) -> int:
        """Report once what several workers reported; the exit code."""
        last = [one for one in self._told if one.attempt == self._attempt]
        told = {one.pid for one in last if one.code is not None}
        self._deaths = [death for death in self._deaths if death.pid not in told]
        if not self._signals.has_come() and (
            self._deaths or any(one.code not in (*WELL, INTERRUPTED) for one in last)
        ):
            # torch's agent interrupts those that remain: that is no end of their own.
            last = [one for one in last if one.code != INTERRUPTED]
        bad = [one for one in last if one.code]
        codes = sorted({one.code or 0 for one in bad} - {LOST}, key=STOPS.__contains__)
        worst = codes[0] if codes else None
        if worst is None and self._signals.has_come() and not any(one.joined for one in last):
            if self._signals.claim_last_words():
                click.echo(self._signals.last_words, err=True)
            return INTERRUPTED
        if worst is not None:
            lines = (
                _collect_lines(one for one in bad if one.code == worst) or _collect_lines(bad)[:1]
            )
            for line in lines[:1] if worst == Interrupted.exit_code else lines:
                click.echo(line, err=True)
            return worst
        # Who was killed here because it hung is told of so; who died before made it hang.
        deaths = [death.describe() for death in self._deaths if death.pid not in self._hung]
        for one in self._hung.values():
            how = self._how.get(one.pid, "")
            deaths.append(f"Error: rank {one.rank} (process {one.pid}) hung and was killed{how}")
        if not deaths:  # who ended with 0 and no word, which its launcher takes for well
            deaths = [
                Death(one.rank, one.pid, 0).describe()
                for one in last
                if one.code is None and not _collect_lines([one]) and not _is_alive(one.pid)
            ]
        # One that hung and was woken knows less of it than those that waited.
        waited = _collect_lines(one for one in last if one.pid not in self._hung) or _collect_lines(
            last
        )
        seen = [line.removeprefix("Error: ") for line in waited[:1]]
        if deaths:
            click.echo(deaths[0], err=True)
            for line in seen:
                click.echo(f"  {line}", err=True)
        else:
            for line in seen:
                click.echo(f"Error: {line}", err=True)
        # Who ended without a code did not end well, though nobody saw it die.
        if not (bad or deaths or any(one.code is None for one in last)):
            return 0
        click.echo("  resume with --resume", err=True)
        failed = [death for death in self._deaths if death.code > 0]
        return 1 if failed and not bad else LOST


def _collect_lines(told: Iterable[WorkerStatus], *, warnings: bool = False) -> list[str]:
    """Each distinct line, in the order of ranks: the warnings, or everything else."""
    said = dict.fromkeys(line for one in told for line in one.lines)
    return [line for line in said if line.startswith("Warning: ") == warnings]


def _end_all(folder: str) -> None:
    """Kill all workers and delete their folder."""
    for wait in (POLL, 0.0):  # the thread that starts them may be starting one more
        for one in active_children():
            one.kill()
        time.sleep(wait)
    rmtree(folder, ignore_errors=True)
    # This process ends without its exit functions: multiprocessing would warn of its semaphores.
    util._run_finalizers(0)  # type: ignore[attr-defined]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, PermissionError):  # gone, or its number is another's
        return False
    return True

"""Finds workers that are stopped, and workers that hang before the first step is done.

After it the others notice both, by a collective that takes longer than the run's limit. Before it
they wait much longer, as a rank may have much to do that the others have not.
"""

import subprocess
import time
from pathlib import Path

from hermes.distributed.hang_rules import HangRules
from hermes.distributed.processor_time import read_seconds
from hermes.distributed.signs_of_work import BUSY, Beat
from hermes_cli.launch.pulse import get_pulse_path, read_beat
from hermes_cli.launch.worker_status import WorkerStatus

__all__ = ["HangWatch", "is_stopped"]

# Seconds beyond a run's limit: others notice who is stopped, but not before the first step.
LEFT_TO_OTHERS = 5.0
TICK = 1.0  # seconds between two looks


class HangWatch:
    """Seconds are counted by looks, since this process may have been stopped with all others.

    limit, work_limit: seconds, as of HangRules; a limit of 0 for no watch.
    """

    def __init__(self, folder: str, limit: float, work_limit: float | None = None):
        self._folder, self._limit, self._work_limit = folder, limit, work_limit or limit
        self._ticked_at = 0.0
        self.forget()

    def forget(self) -> None:
        """All workers are new."""
        self._rules = HangRules(self._limit / TICK, self._work_limit / TICK)
        self._computed: dict[int, float] = {}
        self._stopped: dict[int, int] = {}

    def find(self, running: list[WorkerStatus]) -> list[tuple[WorkerStatus, str]]:
        """Each worker that hangs, with what more is to be said of it; at most once in a tick."""
        if not self._limit or time.monotonic() - self._ticked_at < TICK:
            return []
        self._ticked_at = time.monotonic()
        said: dict[int, Beat | None] = {}
        computes: dict[int, bool] = {}
        for one in running:
            beat = read_beat(get_pulse_path(self._folder, one.attempt, one.rank))
            said[one.pid] = beat
            computed = read_seconds(one.pid) if beat else 0.0
            computes[one.pid] = computed - self._computed.get(one.pid, 0.0) >= BUSY * TICK
            self._computed[one.pid] = computed
            ticks = self._stopped.get(one.pid, 0)
            self._stopped[one.pid] = ticks + 1 if is_stopped(one.pid) else 0
        self._rules.add(said, computes)
        limit, hung = (self._limit + LEFT_TO_OTHERS) / TICK, self._rules.find()
        found = [(one, "") for one in running if self._stopped[one.pid] > limit]
        return found + [
            (one, f": {hung[one.pid]}; if it was at work, give a longer --peer-timeout")
            for one in running
            if one.pid in hung and not self._stopped[one.pid]
        ]


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal and not continued."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:  # it is gone, or the system has no such files
        words = ["ps", "-o", "state=", "-p", str(pid)]
        state = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return state.startswith("T")

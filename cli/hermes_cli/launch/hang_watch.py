"""Finds workers that are stopped, and workers that hang before the first step is done.

After it the others notice both, by a collective that takes longer than the run's limit. Before it
they wait much longer, as a rank may have much to do that the others have not.
"""

import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from hermes.distributed.processor_time import read_seconds
from hermes.distributed.signs_of_work import BUSY
from hermes_cli.launch.pulse import Beat, get_pulse_path, read_beat
from hermes_cli.launch.worker_status import WorkerStatus

__all__ = ["HangWatch", "is_stopped"]

# Seconds beyond a run's limit: others notice who is stopped, but not before the first step.
LEFT_TO_OTHERS = 5.0
TICK = 1.0  # seconds between two looks


@dataclass
class _Seen:
    """What was seen of a worker. idle, stopped: the ticks without a sign of work, and stopped."""

    beat: Beat | None = None
    computed: float = 0.0
    idle: int = 0
    stopped: int = 0

    def add(self, beat: Beat | None, computed: float) -> None:
        """Take note of a tick.

        A worker that says nothing more may be in a call that keeps Python's lock: then it counts
        whether the process computes.
        """
        before, self.beat = self.beat, beat
        grown, self.computed = computed - self.computed, computed
        is_new = before is None or beat is None or beat.signs != before.signs
        is_mute = beat == before and grown >= BUSY * TICK
        self.idle = 0 if is_new or is_mute else self.idle + 1


class HangWatch:
    """Seconds are counted by looks, since this process may have been stopped with all others.

    limit: seconds; 0 for no watch.
    """

    def __init__(self, folder: str, limit: float):
        self._folder, self._limit = folder, limit
        self._seen: dict[int, _Seen] = {}
        self._ticked_at = 0.0

    def forget(self) -> None:
        """All workers are new."""
        self._seen = {}

    def find(self, running: list[WorkerStatus]) -> list[tuple[WorkerStatus, str]]:
        """Each worker that hangs, with what more is to be said of it; at most once in a tick."""
        if not self._limit or time.monotonic() - self._ticked_at < TICK:
            return []
        self._ticked_at = time.monotonic()
        seen = {one.pid: self._seen.get(one.pid, _Seen()) for one in running}
        self._seen = seen
        for one in running:
            beat = read_beat(get_pulse_path(self._folder, one.attempt, one.rank))
            seen[one.pid].add(beat, read_seconds(one.pid) if beat else 0.0)
            seen[one.pid].stopped = seen[one.pid].stopped + 1 if is_stopped(one.pid) else 0
        limit = (self._limit + LEFT_TO_OTHERS) / TICK
        found = [(one, "") for one in running if seen[one.pid].stopped > limit]
        idle = [one for one in running if seen[one.pid].idle > self._limit / TICK]
        waits = any(self._is_waiting(one) for one in idle)
        # One that nobody waits for may be at what the others have done, but all cannot.
        if waits or len(idle) == len(running):
            while_what = " while others waited" if waits else ", nor did any other"
            found += [
                (one, self._describe(one, while_what))
                for one in idle
                if not self._is_waiting(one) and not seen[one.pid].stopped
            ]
        return found

    def _is_waiting(self, one: WorkerStatus) -> bool:
        beat = self._seen[one.pid].beat
        return beat is not None and beat.waits

    def _describe(self, one: WorkerStatus, while_what: str) -> str:
        beat = self._seen[one.pid].beat
        place = f" ({beat.place})" if beat else ""
        return (
            f": it did nothing for {self._limit:g} s before the first step{while_what}"
            f"{place}; if it was at work, give a longer --peer-timeout"
        )


def is_stopped(pid: int) -> bool:
    """Whether a process was stopped by a signal and not continued."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
    except OSError:  # it is gone, or the system has no such files
        words = ["ps", "-o", "state=", "-p", str(pid)]
        state = subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()
    return state.startswith("T")

"""Delivers a run's numbers to its trackers, in a thread, so that training never waits for them."""

import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

from hermes.tracking.tracker import MakeTracker, TrackedRun, Tracker, name_curves

__all__ = ["TrackerDelivery"]

ROOM = 100_000  # entries that wait for a slow tracker before some are lost
PATIENCE = 60.0  # seconds that the end of a run waits for its trackers


@dataclass(frozen=True)
class Entry:
    """What a tracker is to take: the numbers of a step, or a text."""

    step: int
    values: Mapping[str, float]
    name: str = ""
    text: str = ""


class TrackerDelivery:
    """A block around a run in which each of its trackers follows it, in a thread of its own.

    A tracker that fails is named in a warning, and the run goes on without it. logged: the last
    step that an earlier session has logged of each kind ('train', 'val'); what is computed again
    up to it goes only to trackers that rewind. tell: given lines for the user. patience: seconds
    that the block's end waits for each.
    """

    def __init__(
        self,
        makers: Mapping[str, MakeTracker],
        run: TrackedRun,
        logged: Mapping[str, int],
        tell: Callable[[str], None],
        patience: float = PATIENCE,
    ):
        self._patience, self._tell = patience, tell
        self._threads = [
            TrackerThread(name, make, run, logged, tell) for name, make in makers.items()
        ]
        self._finished = True
        # The last step of each kind, and up to which none is logged again after a rollback:
        # trackers take no step twice, and what they have cannot be taken back.
        self._last: dict[str, int] = {}
        self._told: dict[str, int] = {}

    def _keep_new(self, kind: str, step: int) -> bool:
        self._last[kind] = max(step, self._last.get(kind, 0))
        return step > self._told.get(kind, 0)

    def mark_rolled_back(self) -> None:
        """Leave out what follows up to the step that was reached before."""
        self._told = dict(self._last)

    def log(self, record: Mapping[str, float]) -> None:
        """Deliver a line of metrics.jsonl."""
        step = int(record["step"])
        values = {
            name: value
            for name, value in name_curves(record).items()
            if self._keep_new(name.split("/")[0], step)
        }
        if not values:
            return
        for thread in self._threads:
            thread.put(Entry(int(record["step"]), values))

    def log_text(self, step: int, name: str, text: str) -> None:
        """Deliver a text."""
        if not self._keep_new("text", step):
            return
        for thread in self._threads:
            thread.put(Entry(step, {}, name, text))

    def mark_stopped(self) -> None:
        """Say that the run was stopped before its end; an error in the block says it too."""
        self._finished = False

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        for thread in self._threads:
            thread.end(self._finished and error is None)
        for thread in self._threads:
            thread.join(self._patience)
            if thread.is_alive():
                self._tell(
                    f"Warning: {thread.name} has not taken everything within "
                    f"{self._patience:g} s; its last numbers may be missing there"
                )


class TrackerThread(threading.Thread):
    """Feeds one tracker; a daemon, so that one that hangs does not hold the process."""

    def __init__(
        self,
        name: str,
        make: MakeTracker,
        run: TrackedRun,
        logged: Mapping[str, int],
        tell: Callable[[str], None],
    ):
        super().__init__(name=name, daemon=True)
        self._make, self._run, self._logged, self._tell = make, run, logged, tell
        self._entries: queue.Queue[Entry] = queue.Queue(ROOM)
        self._ended = threading.Event()
        self._finished, self._lost = False, 0

    def put(self, entry: Entry) -> None:
        """Deliver an entry, unless too many wait already."""
        try:
            self._entries.put_nowait(entry)
        except queue.Full:
            self._lost += 1

    def end(self, finished: bool) -> None:
        """Say that nothing follows."""
        self._finished = finished
        self._ended.set()

    def run(self) -> None:
        """Feed the tracker until the end."""
        try:
            tracker = self._make(self._run)
            while (entry := self._take()) is not None:
                self._feed(tracker, entry)
            tracker.finish(self._finished)
        # Whatever a tracker's package raises, the run is worth more than its curves.
        except BaseException as error:
            what = f"{type(error).__name__}: {error}".splitlines()[0]
            self._tell(f"Warning: {self.name} follows the run no longer: {what}")
            return
        if self._lost:
            self._tell(f"Warning: {self.name} was too slow; {self._lost:,} of its entries are lost")

    def _take(self) -> Entry | None:
        """The next entry; None at the end."""
        while True:
            try:
                return self._entries.get(timeout=0.1)
            except queue.Empty:
                if self._ended.is_set():
                    return None

    def _feed(self, tracker: Tracker, entry: Entry) -> None:
        if entry.name:
            if tracker.rewinds or entry.step > self._logged.get("text", 0):
                tracker.log_text(entry.step, entry.name, entry.text)
            return
        values = entry.values
        if not tracker.rewinds:
            values = {
                name: value
                for name, value in values.items()
                if entry.step > self._logged.get(name.split("/")[0], 0)
            }
        if values:
            tracker.log(entry.step, values)

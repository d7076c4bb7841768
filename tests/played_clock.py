"""A clock that goes on when a test says so."""

import threading

from hermes import stage_display
from tests.waiting import wait_until


class PlayedClock:
    """Stands for the module `time` where a thread looks at it once in a while."""

    def __init__(self):
        self.now, self._test, self._looks = 0.0, threading.current_thread(), 0

    def monotonic(self):
        self._looks += threading.current_thread() is not self._test
        return self.now

    def advance(self, seconds):
        """Let time pass, and return once the thread has done what it does at that time."""
        self.now += seconds
        before = self._looks
        wait_until(lambda: self._looks >= before + 2)


def play_stages(monkeypatch):
    """The clock of what shows stages, after 1.5 s in place and after 5 as a line."""
    played = PlayedClock()
    changes = {"time": played, "REDRAW": 0.01, "PATIENCE": 1.5, "LOG_PATIENCE": 5.0}
    for name, value in changes.items():
        monkeypatch.setattr(stage_display, name, value)
    return played

"""A clock that goes on when a test says so."""

import threading

from hermes import stage_display
from tests.waiting import wait_until


class PlayedClock:
    """Stands for the module `time` where a thread looks at it once in a while."""

    def __init__(self):
        self.now, self._looks = 0.0, {}

    def monotonic(self):
        own = threading.get_ident()
        self._looks[own] = self._looks.get(own, 0) + 1
        return self.now

    def advance(self, seconds):
        """Let time pass, and return once a thread has done what it does at that time."""
        self.now += seconds
        before = dict(self._looks)
        # At its second look it is done with what it did at the first.
        wait_until(lambda: any(n >= before.get(one, 0) + 2 for one, n in dict(self._looks).items()))


def play_stages(monkeypatch):
    """The clock of what shows stages, after 1.5 s in place and after 5 as a line."""
    played = PlayedClock()
    changes = {"time": played, "REDRAW": 0.01, "PATIENCE": 1.5, "LOG_PATIENCE": 5.0}
    for name, value in changes.items():
        monkeypatch.setattr(stage_display, name, value)
    return played

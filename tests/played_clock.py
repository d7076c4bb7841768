"""A clock that goes on when a test says so."""

import threading

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

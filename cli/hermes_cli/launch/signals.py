"""Ctrl-C, SIGTERM and SIGHUP: the first asks to stop, the second ends the process at once."""

import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

__all__ = ["Signals"]

CAUGHT = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Signals:
    """A block in which a first signal is kept for whoever polls `has_come`.

    Until `polled` is set nobody does, and the signal raises KeyboardInterrupt instead. After the
    first signal the default handlers are back, so that a second one ends the process even inside a
    long call. A closing terminal sends SIGHUP more than once, so a second SIGHUP ends nothing;
    where it was ignored before, as under nohup, it stays ignored. silent: another process prints
    the words. ends: called by the second signal.
    """

    def __init__(self, words: str):
        self.polled = False
        self.silent = False
        self.ends: Callable[[], None] | None = None
        self._words = words
        self._came = False

    def has_come(self) -> bool:
        """Whether a signal came."""
        return self._came

    def __enter__(self) -> "Signals":
        ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        caught = [one for one in CAUGHT if not (ignored and one == signal.SIGHUP)]
        self._before = {number: signal.signal(number, self._handle_first) for number in caught}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            last = self._came and number == signal.SIGHUP
            signal.signal(number, signal.SIG_IGN if last else handler)

    def _handle_first(self, number: int, frame: FrameType | None) -> None:
        if not self.polled:
            raise KeyboardInterrupt
        if self._came:
            return
        self._came = True
        for one in (signal.SIGINT, signal.SIGTERM):
            signal.signal(one, self._handle_second if self.ends else signal.SIG_DFL)
        if self.silent:
            return
        print(self._words, file=sys.stderr, flush=True)
        if os.isatty(2):
            # A bar hides the cursor, and lets no such code through; after a second signal nobody
            # would show it again.
            os.write(2, b"\x1b[?25h")

    def _handle_second(self, number: int, frame: FrameType | None) -> None:
        if self.ends:
            self.ends()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

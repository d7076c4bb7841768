"""Shows what a command is doing once that takes longer than a moment, on standard error."""

import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from hermes.formatting import format_with_unit

__all__ = ["StageDisplay"]

PATIENCE = 1.5  # seconds of silence on a terminal
LOG_PATIENCE = 5.0  # and in a log
REDRAW = 0.5  # seconds between two drawings of a terminal's line
REPEAT = 10.0  # seconds between two lines of one stage elsewhere


class StageDisplay:
    """A block in which the current stage is shown: in place on a terminal, else by a line.

    A thread shows it, so that a stage that reports nothing more is seen, too. check: called with
    each report; may raise KeyboardInterrupt. print_line: prints a line for the user.
    """

    def __init__(self, print_line: Callable[[str], None], check: Callable[[], None]):
        self._print_line, self._check = print_line, check
        self._terminal = sys.stderr is not None and sys.stderr.isatty()
        self._what, self._done, self._total = "", 0, 0
        self._began = self._shown_at = time.monotonic()
        self._drawn = False
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def show(self, what: str, done: int = 0, total: int = 0) -> None:
        """Take note of a stage; "" ends it, before other lines are printed."""
        self._check()
        with self._lock:
            if what != self._what:
                self._erase()
                self._what, self._began = what, time.monotonic()
                self._shown_at = self._began
            self._done, self._total = done, total

    def __enter__(self) -> "StageDisplay":
        threading.Thread(target=self._run, name="stages", daemon=True).start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        with self._lock:
            self._what = ""
            self._erase()

    def _run(self) -> None:
        while not self._ended.wait(REDRAW):
            with self._lock:
                self._draw(time.monotonic())

    def _draw(self, now: float) -> None:
        if not self._what or now - self._began < (PATIENCE if self._terminal else LOG_PATIENCE):
            return
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{self._describe(now)}")
            sys.stderr.flush()
            self._drawn = True
        elif self._shown_at == self._began or now - self._shown_at >= REPEAT:
            self._shown_at = now
            self._print_line(self._describe(now))

    def _describe(self, now: float) -> str:
        far = ""
        if self._total:
            far = f": {100 * self._done / self._total:.0f} %"
        elif self._done:
            far = f": {format_with_unit(self._done, '').rstrip()}"
        return f"{self._what}{far}, {now - self._began:.0f} s"

    def _erase(self) -> None:
        if self._drawn:
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()
            self._drawn = False

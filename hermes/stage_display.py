"""Shows what a program is doing once that takes longer than a moment.

Everything that takes long says so by `hermes.stages.report_stage`; this is what is seen of it, the
same for all of them: in place on a terminal, else a line now and then.
"""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from hermes.formatting import format_with_unit
from hermes.stages import has_display, show_stages

__all__ = ["StageDisplay", "draw_on_terminal", "show_progress"]

PATIENCE = 1.5  # seconds of silence where it is drawn in place
LOG_PATIENCE = 5.0  # and where it is a line
REDRAW = 0.5  # seconds between two drawings
REPEAT = 10.0  # seconds between two lines of one stage
SOON = 2.0  # seconds of a stage, before which nobody can say when it ends


def draw_on_terminal(text: str) -> None:
    """Replace the line in place on standard error; "" erases it."""
    sys.stderr.write(f"\r\x1b[K{text}")
    sys.stderr.flush()


class StageDisplay:
    """A block in which the current stage is shown, by a thread: one that hangs is seen, too.

    print_line: prints a line for the user. draw: shows a text in place and erases it for "", None
    where only lines can be printed. check: called with each report; may raise KeyboardInterrupt.
    """

    def __init__(
        self,
        print_line: Callable[[str], None],
        draw: Callable[[str], None] | None = None,
        check: Callable[[], None] = lambda: None,
    ):
        self._print_line, self._draw_text, self._check = print_line, draw, check
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

    def start(self) -> None:
        """Begin to show; `close` ends it."""
        threading.Thread(target=self._run, name="stages", daemon=True).start()

    def close(self) -> None:
        """Erase what is drawn, and show nothing more."""
        self._ended.set()
        with self._lock:
            self._what = ""
            self._erase()

    def __enter__(self) -> "StageDisplay":
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _run(self) -> None:
        # A stream may be closed by whoever owns it: then nobody is left to be shown anything.
        with suppress(OSError, ValueError):
            while not self._ended.wait(REDRAW):
                with self._lock:
                    self._draw(time.monotonic())

    def _draw(self, now: float) -> None:
        patience = LOG_PATIENCE if self._draw_text is None else PATIENCE
        if not self._what or now - self._began < patience:
            return
        if self._draw_text is not None:
            self._draw_text(self._describe(now))
            self._drawn = True
        elif self._shown_at == self._began or now - self._shown_at >= REPEAT:
            self._shown_at = now
            self._print_line(self._describe(now))

    def _describe(self, now: float) -> str:
        """What it does, how far it is, since when, and how long it will take."""
        far, seconds, left = "", now - self._began, ""
        if self._total:
            far = f": {100 * self._done / self._total:.0f} %"
            if seconds >= SOON and 0 < self._done <= self._total:
                rest = round(seconds * (self._total - self._done) / self._done)
                left = f", {rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02} left"
        elif self._done:
            far = f": {format_with_unit(self._done, '').rstrip()}"
        return f"{self._what}{far}, {seconds:.0f} s{left}"

    def _erase(self) -> None:
        if self._drawn and self._draw_text is not None:
            self._draw_text("")
            self._drawn = False


def _print_line(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


@contextmanager
def show_progress(progress: bool | None) -> Iterator[None]:
    """A block whose stages are shown on standard error, unless the program around it shows them.

    progress: True for a line in place on a terminal and lines elsewhere, None for the former alone,
    False for nothing.
    """
    terminal = sys.stderr is not None and sys.stderr.isatty()
    if progress is False or has_display() or not (progress or terminal):
        yield
        return
    draw = draw_on_terminal if terminal else None
    with StageDisplay(_print_line, draw) as shown, show_stages(shown.show):
        yield

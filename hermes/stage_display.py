"""Shows what a program is doing once that takes longer than a moment.

Everything that takes long says so by `hermes.stages.report_stage`; this is what is seen of it, the
same for all of them: in place on a terminal, else a line now and then.
"""

import shutil
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import TracebackType

from hermes.formatting import format_with_unit
from hermes.stages import has_display, show_stages

__all__ = ["StageDisplay", "draw_on_terminal", "measure_terminal", "show_progress"]

PATIENCE = 1.5  # seconds of silence where it is drawn in place
LOG_PATIENCE = 5.0  # and where it is a line
REDRAW = 0.5  # seconds between two drawings
REPEAT = 10.0  # seconds between two lines of one stage
SOON = 2.0  # seconds of a stage, before which nobody can say when it ends
PACE = 120  # redrawings, over which the pace is measured that says how long it will take
BAR = (10, 30)  # columns of a bar: the fewest, without which it is left out, and the most


def draw_on_terminal(text: str) -> None:
    """Replace the line in place on standard error; "" erases it."""
    sys.stderr.write(f"\r\x1b[K{text}")
    sys.stderr.flush()


def measure_terminal() -> int:
    """The columns of the terminal."""
    return shutil.get_terminal_size().columns


class StageDisplay:
    """A block in which the current stage is shown, by a thread: one that hangs is seen, too.

    print_line: prints a line for the user. draw: shows a text in place and erases it for "", None
    where only lines can be printed. check: called with each report; may raise KeyboardInterrupt.
    measure: the columns that there are for a text in place, where it is alone in them; a bar fills
    what is left of them. Where it is alone, short stages in a row are no long silence.
    """

    def __init__(
        self,
        print_line: Callable[[str], None],
        draw: Callable[[str], None] | None = None,
        check: Callable[[], None] = lambda: None,
        measure: Callable[[], int] | None = None,
    ):
        self._print_line, self._draw_text, self._check = print_line, draw, check
        self._measure = measure
        self._what, self._done, self._total = "", 0, 0
        self._facts: tuple[str, ...] = ()
        self._pace: deque[tuple[float, int]] = deque(maxlen=PACE)  # when, and what was done
        self._began = self._shown_at = self._seen_at = time.monotonic()
        self._drawn = False
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def show(self, what: str, done: int = 0, total: int = 0, *facts: str) -> None:
        """Take note of a stage; "" ends it, before other lines are printed."""
        self._check()
        with self._lock:
            if what != self._what:
                self._erase()
                self._what, self._began = what, time.monotonic()
                self._shown_at = self._began
                self._pace.clear()
                self._pace.append((self._began, 0))
            self._done, self._total, self._facts = done, total, facts

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
        if self._what:
            self._pace.append((now, self._done))
        patience = LOG_PATIENCE if self._draw_text is None else PATIENCE
        is_alone = self._draw_text is not None and self._measure is not None
        silence = now - (self._seen_at if is_alone else self._began)
        if not self._what or not (self._drawn or silence >= patience):
            return
        if self._draw_text is not None:
            self._draw_text(self._describe(now))
            self._drawn, self._seen_at = True, now
        elif self._shown_at == self._began or now - self._shown_at >= REPEAT:
            self._shown_at = now
            self._print_line(self._describe(now))

    def _describe(self, now: float) -> str:
        """What it does, how far it is, since when, and how long it will take."""
        far, left = "", self._estimate_rest(now)
        if self._total:
            far = f": {100 * self._done / self._total:.0f} %"
        elif self._done:
            far = f": {format_with_unit(self._done, '').rstrip()}"
        head, since = f"{self._what}{far}", f"{now - self._began:.0f} s"
        facts = list(self._facts)
        words = [head, *facts, since, left]
        if self._draw_text is None or self._measure is None:
            return _join(words)
        # What is missed least is left out until the rest has room.
        room = self._measure() - 1
        if len(_join(words)) > room:
            words = [head, *facts, left]
        while facts and len(_join(words)) > room:
            facts.pop()
            words = [head, *facts, left]
        text = _join(words if len(_join(words)) <= room else [head])[:room]
        return self._add_bar(text, room - len(text) - 1)

    def _estimate_rest(self, now: float) -> str:
        """How long it will take at the pace of the last minute; "" where nobody can say."""
        began, before = self._pace[0] if self._pace else (now, 0)
        made = self._done - before
        if now - self._began < SOON or made <= 0 or not self._done <= self._total:
            return ""
        rest = round((now - began) * (self._total - self._done) / made)
        return f"{rest // 3600}:{rest // 60 % 60:02}:{rest % 60:02} left"

    def _add_bar(self, text: str, room: int) -> str:
        """Put a bar of at most `room` columns before a text, where there is room for one."""
        fewest, most = BAR
        if not 0 < self._done <= self._total or room < fewest:
            return text
        width = min(room, most) - 2
        return f"[{'=' * (width * self._done // self._total):-<{width}}] {text}"

    def _erase(self) -> None:
        if self._drawn and self._draw_text is not None:
            self._draw_text("")
            self._drawn, self._seen_at = False, time.monotonic()


def _join(words: list[str]) -> str:
    return ", ".join(filter(None, words))


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
    with (
        StageDisplay(_print_line, draw, measure=measure_terminal) as shown,
        show_stages(shown.show),
    ):
        yield

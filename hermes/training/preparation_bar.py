"""Shows how far a preparation of text is: a bar in a terminal, a line now and then elsewhere."""

import math
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from hermes.data.progress import PreparationProgress
from hermes.formatting import format_with_unit
from hermes.stages import report_stage
from hermes.training.progress_bar import can_draw_bar

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

__all__ = ["PreparationDisplay", "describe_progress"]

QUIET_SECONDS = 30.0
FIRST_SECONDS = 2.0  # what takes less needs no word


def describe_progress(progress: PreparationProgress, seconds: float) -> str:
    """How far it is and how fast: documents, tokens, bytes per second and the time left."""
    rate = progress.read / max(seconds, 1e-9)
    words = []
    if progress.stage == "tokenizing":
        words += [f"{progress.documents:,} documents", f"{progress.tokens:,} tokens"]
        words.append(f"{format_with_unit(rate, 'B')}/s")
    if progress.size and rate and progress.size >= progress.read:
        left = round((progress.size - progress.read) / rate)
        words.append(f"{left // 3600}:{left // 60 % 60:02}:{left % 60:02} left")
    return ", ".join(words)


class PreparationDisplay:
    """Shows the progress of a preparation, from two seconds on; a `with` block that ends it.

    progress: True for a bar in a terminal and lines elsewhere, None for a bar alone, False for
    nothing.
    """

    def __init__(
        self,
        progress: bool | None = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._draws = progress is not False and stream is None and can_draw_bar()
        self._speaks = progress is True and not self._draws
        self._stream, self._clock = stream or sys.stderr, clock
        self._started, self._said = clock(), -math.inf
        self._stage = ""
        self._bar: Bar | None = None

    def show(self, progress: PreparationProgress) -> None:
        """Show how far it is."""
        report_stage("")  # a command that was asked to stop does so where it reports
        now = self._clock()
        if progress.stage != self._stage:
            self._stage, self._started, self._said = progress.stage, now, -math.inf
        seconds = now - self._started
        if seconds < FIRST_SECONDS and self._bar is None:
            return
        if self._draws:
            self._draw(progress, seconds)
        elif self._speaks and now - self._said > QUIET_SECONDS:
            self._said = now
            share = f"{progress.read / progress.size:.0%} " if progress.size else ""
            line = f"{progress.stage}: {share}{describe_progress(progress, seconds)}"
            print(line, file=self._stream, flush=True)

    def _draw(self, progress: PreparationProgress, seconds: float) -> None:
        if self._bar is None:
            from rich.console import Console
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as Bar

            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.fields[said]}"),
            )
            self._bar = Bar(*columns, console=Console(stderr=True), transient=True)
            self._bar.add_task(progress.stage, total=None, said="")
            self._bar.start()
        task = self._bar.task_ids[0]
        self._bar.update(
            task,
            description=progress.stage,
            total=progress.size or None,
            completed=progress.read,
            said=describe_progress(progress, seconds),
        )

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def __enter__(self) -> "PreparationDisplay":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

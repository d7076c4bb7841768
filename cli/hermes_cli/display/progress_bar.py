"""The progress of training on standard error: a bar on a terminal, lines elsewhere."""

import os
import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol, TextIO

from hermes.training.events import Evaluation, Event, Saved, Stopped, Update

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

__all__ = ["Reporter", "make_reporter"]

# About as many lines are printed for a whole run.
LINES = 20
# Metrics of preference pairs that are shown beside the loss, and the words for them.
PAIR_METRICS = (("reward_margin", "margin"), ("accuracy", "accuracy"))
QUIET_SECONDS = 30.0
# The slowest rank is named from this multiple of the ranks' mean time on.
SLOW_RATIO = 1.1


class Reporter(Protocol):
    """Shows a run's events as they come."""

    def show(self, event: Event) -> None:
        """Show one event."""
        ...

    def say(self, text: str) -> None:
        """Show a line of text."""
        ...

    def close(self) -> None:
        """Restore the terminal."""
        ...


def make_reporter(total_steps: int, done: int) -> Reporter:
    """Make a bar if standard error is a terminal that can draw one, else a printer of lines."""
    stream = sys.stderr
    draws = stream.isatty() and os.environ.get("TERM") != "dumb"
    return _Bar(total_steps, done) if draws else _Lines(total_steps, done, stream)


def _format_duration(seconds: float) -> str:
    minutes, seconds = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _format_rate(event: Update) -> str:
    slow = event.slowest_over_mean or 0.0
    behind = f", rank {event.slowest_rank} slowest, {slow:.2f} x mean" if slow >= SLOW_RATIO else ""
    return f"{event.tokens_per_second:,.0f} tokens/s{behind}"


def _format_loss(event: Update) -> str:
    known = event.others
    shown = "".join(f", {word} {known[name]:.4g}" for name, word in PAIR_METRICS if name in known)
    return f"loss {event.loss:.4f}{shown}"


def _format_event(event: Evaluation | Saved | Stopped) -> str:
    match event:
        case Evaluation(step, loss, bits, others):
            end = "" if bits is None else f", {bits:.4f} bits per byte"
            end += "".join(f", {name} {value:.4g}" for name, value in others.items())
            return f"step {step:,}: validation loss {loss:.4f}{end}"
        case Saved(step, path):
            return f"step {step:,}: saved {path}"
        case Stopped(step):
            return f"step {step:,}: stopped"


class _Lines:
    """Prints about LINES lines for a run, and at least one in QUIET_SECONDS of training."""

    def __init__(
        self,
        total: int,
        done: int,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total, self._stream, self._clock = total, stream, clock
        self._every = max(total // LINES, 1)
        self._first, self._started_at = done, clock()
        self._shown, self._shown_at = done, clock()

    def show(self, event: Event) -> None:
        if not isinstance(event, Update):
            self.say(_format_event(event))
            return
        now = self._clock()
        is_first = self._shown == self._first
        is_due = event.step // self._every > self._shown // self._every or event.step == self._total
        if not (is_first or is_due or now - self._shown_at > QUIET_SECONDS):
            return
        self._shown, self._shown_at = event.step, now
        steps = max(event.step - self._first, 1)
        left = (now - self._started_at) / steps * (self._total - event.step)
        self.say(
            f"step {event.step:,}/{self._total:,}  {_format_loss(event)}  "
            f"{_format_rate(event)}  {_format_duration(left)} left"
        )

    def say(self, text: str) -> None:
        print(text, file=self._stream, flush=True)

    def close(self) -> None:
        pass


class _Bar:
    """A progress bar with step, loss, tokens per second and time left; other events above it."""

    def __init__(self, total: int, done: int):
        self._progress = _make_bar()
        self._task = self._progress.add_task(
            "training", total=total, completed=done, loss="", rate=""
        )
        self._progress.start()

    def show(self, event: Event) -> None:
        if isinstance(event, Update):
            self._progress.update(
                self._task,
                completed=event.step,
                loss=_format_loss(event),
                rate=_format_rate(event),
            )
        else:
            self.say(_format_event(event))

    def say(self, text: str) -> None:
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None:
        self._progress.stop()


def _make_bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    columns: list[ProgressColumn] = [
        MofNCompleteColumn(),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[loss]}", style="bold"),
        TextColumn("{task.fields[rate]}"),
        Left(),
        TextColumn("left", style="dim"),
    ]
    return Progress(*columns, console=Console(stderr=True), expand=True)

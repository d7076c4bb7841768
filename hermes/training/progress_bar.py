"""Shows a run while it trains: a bar in a terminal or notebook, a line now and then elsewhere.

Everything goes to standard error or into the notebook's cell. rich and IPython are imported only
where they draw.
"""

import html
import os
import sys
import time
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol, TextIO

from hermes.formatting import format_with_unit
from hermes.stage_display import StageDisplay
from hermes.training.events import (
    OF_TASK,
    Evaluation,
    Event,
    Overflow,
    RolledBack,
    Sample,
    Saved,
    Skipped,
    Spike,
    Stopped,
    StoppedEarly,
    TaskScores,
    TasksFailed,
    Update,
)
from hermes.training.smoothed_loss import SmoothedLoss

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

__all__ = [
    "BarProgress",
    "LineProgress",
    "NoProgress",
    "NotebookProgress",
    "ProgressDisplay",
    "can_draw_bar",
    "describe_event",
    "open_progress",
]

LINES = 20
# What is shown of a step on pairs besides its loss, and the word for it.
PAIR_MEASURES = (("reward_margin", "margin"), ("accuracy", "accuracy"))
QUIET_SECONDS = 30.0
NARROW = 76  # columns of a terminal, below which a bar shows step, loss and time left alone
WIDE = 120  # from which on it shows the smoothed loss, learning rate and gradient norm, too
REDRAW_SECONDS = 0.2  # of a notebook, whose every update is a message to the browser
SAVING = 0.1  # seconds, from which on the time that saving held up training is shown
BEHIND = 1.1  # times the mean busy time, from which on the slowest rank is shown


class ProgressDisplay(Protocol):
    """Shows a run's events as they come."""

    def show(self, event: Event) -> None:
        """Show one event."""
        ...

    def say(self, text: str) -> None:
        """Show a line of text."""
        ...

    def show_stage(self, what: str, done: int, total: int, *facts: str) -> None:
        """Show what is done besides steps, such as an evaluation."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was found."""
        ...


def open_progress(
    total_steps: int,
    done: int,
    progress: bool | None = True,
    *,
    verbose: bool = False,
    losses: Iterable[float] = (),
) -> ProgressDisplay:
    """The display of a run of `total_steps`, of which `done` are done.

    progress: True for a bar in a notebook or terminal and lines elsewhere; False for nothing; None
    for a bar where one can be drawn, and nothing elsewhere. verbose: a line for every logged step.
    losses: those of the run so far, with which the smoothed loss goes on.
    """
    if progress is False:
        return NoProgress()
    if verbose:
        return LineProgress(total_steps, done, sys.stderr, every=1, losses=losses)
    if _is_notebook():
        return NotebookProgress(total_steps, done, losses=losses)
    if can_draw_bar():
        return BarProgress(total_steps, done, losses)
    if not progress:
        return NoProgress()
    return LineProgress(total_steps, done, sys.stderr, losses=losses)


def can_draw_bar() -> bool:
    """Whether this is a notebook, or standard error a terminal that can draw."""
    stream = sys.stderr
    draws = stream is not None and stream.isatty() and os.environ.get("TERM") != "dumb"
    return draws or _is_notebook()


def _is_notebook() -> bool:
    """Whether this is the kernel of a notebook; nothing is imported to find out."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    # A kernel's shell is ipykernel's or Colab's; that of a terminal has no kernel.
    return shell is not None and getattr(shell, "kernel", None) is not None


def _format_duration(seconds: float) -> str:
    minutes, seconds = divmod(max(round(seconds), 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _format_rate(event: Update) -> str:
    """The speed and what it costs."""
    slow = event.slowest_over_mean or 0.0
    behind = f", rank {event.slowest_rank} slowest, {slow:.2f} x mean" if slow >= BEHIND else ""
    mfu = "" if event.mfu is None else f", MFU {100 * event.mfu:.0f} %"
    peak = "" if event.peak_memory is None else f", {format_with_unit(event.peak_memory, 'B')}"
    saved = event.save_seconds or 0.0
    saving = f", {saved:.1f} s saving" if saved >= SAVING else ""
    scale = event.grad_noise_scale
    noise = "" if scale is None else f", noise scale {scale:,.3g}"
    return f"{event.tokens_per_second:,.0f} tokens/s{mfu}{peak}{saving}{behind}{noise}"


def _format_loss(event: Update, smoothed: float | None = None) -> str:
    known = event.others
    shown = "".join(f", {word} {known[name]:.4g}" for name, word in PAIR_MEASURES if name in known)
    mean = "" if smoothed is None else f", smoothed {smoothed:.4f}"
    return f"loss {event.loss:.4f}{mean}{shown}"


def _format_step(event: Update) -> str:
    """The learning rate, the gradient's norm, the speed and what it costs."""
    return f"lr {event.lr:.3g}, norm {event.grad_norm:.3g}, {_format_rate(event)}"


def _format_stage(what: str, done: int, total: int) -> str:
    return f"{what} {100 * done / total:.0f} %" if total else f"{what} {done:,}" if done else what


def describe_event(event: Event) -> str:
    """The event as a line."""
    match event:
        case Update(step):
            return f"step {step:,}: {_format_loss(event)}  {_format_step(event)}"
        case Evaluation(step, loss, bits, others):
            end = "" if bits is None else f", {bits:.4f} bits per byte"
            end += "".join(f", {name} {value:.4g}" for name, value in others.items())
            return f"step {step:,}: validation loss {loss:.4f}{end}"
        case TaskScores(step, others):
            told = (f"{name.removeprefix(OF_TASK)} {value:.4g}" for name, value in others.items())
            return f"step {step:,}: {', '.join(told)}"
        case TasksFailed(step, what):
            return f"step {step:,}: the tasks could not be evaluated, and the run goes on: {what}"
        case Skipped(step, _, _, total, what):
            return f"step {step:,}: {what}, so the step was skipped, number {total:,} of the run"
        case Overflow(step, _, _, scale, lower):
            return (
                f"step {step:,}: the gradients overflow float16 at loss scale {scale:g}, so the "
                f"step was left out, and the scale is {lower:g} from here on"
            )
        case Spike(step, _, total, what, skipped):
            left_out = ", so the step was skipped" if skipped else ""
            return f"step {step:,}: {what}{left_out}, spike number {total:,} of the run"
        case RolledBack(step, last, _, sample, _, total, what):
            return (
                f"step {last:,}: {what}, so the run goes back to step {step:,} of {total:,} and on "
                f"from sample {sample:,} of its epoch"
            )
        case Saved(step, path):
            return f"step {step:,}: saved {path}"
        case Sample(step, _, prompt, text):
            return f"step {step:,}: sample: {prompt}{text}"
        case StoppedEarly(step, best_step, best):
            return (
                f"step {step:,}: the validation loss, {best:.4f} at step {best_step:,}, has not "
                "fallen enough since, so the run ends"
            )
        case Stopped(step):
            return f"step {step:,}: stopped"


class LineProgress:
    """About twenty lines for a run, and never half a minute of training without one."""

    def __init__(
        self,
        total: int,
        done: int,
        stream: TextIO,
        clock: Callable[[], float] = time.monotonic,
        every: int | None = None,
        losses: Iterable[float] = (),
    ):
        self._total, self._stream, self._clock = total, stream, clock
        self._every = every or max(total // LINES, 1)
        self._first, self._started_at = done, clock()
        self._shown, self._shown_at = done, clock()
        self._smoothed = SmoothedLoss(losses)
        self._stages = StageDisplay(self.say)
        self._stages.start()

    def show(self, event: Event) -> None:
        """Print the event; of logged steps only some."""
        if not isinstance(event, Update):
            self.say(describe_event(event))
            return
        now, smoothed = self._clock(), self._smoothed.add(event.loss)
        first = self._shown == self._first
        due = event.step // self._every > self._shown // self._every or event.step == self._total
        if not (first or due or now - self._shown_at > QUIET_SECONDS):
            return
        self._shown, self._shown_at = event.step, now
        made = max(event.step - self._first, 1)
        left = (now - self._started_at) / made * (self._total - event.step)
        self.say(
            f"step {event.step:,}/{self._total:,}  {_format_loss(event, smoothed)}  "
            f"{_format_step(event)}  {_format_duration(left)} left"
        )

    def say(self, text: str) -> None:
        """Print the text."""
        print(text, file=self._stream, flush=True)

    def show_stage(self, what: str, done: int, total: int, *facts: str) -> None:
        """Print a stage that takes long now and then."""
        self._stages.show(what, done, total, *facts)

    def close(self) -> None:
        """Print no more stages."""
        self._stages.close()


class BarProgress:
    """rich's progress bar: step, loss, rate, norm, speed and time left; events above it."""

    def __init__(self, total: int, done: int, losses: Iterable[float] = ()):
        self._progress = _make_bar()
        self._task = self._progress.add_task(
            "training", total=total, completed=done, loss="", rate=""
        )
        self._progress.start()
        self._is_wide = self._progress.console.width >= WIDE
        self._smoothed = SmoothedLoss(losses)
        self._stages = StageDisplay(self.say, self._draw_stage)
        self._stages.start()

    def show(self, event: Event) -> None:
        """Move the bar, or print the event above it."""
        if isinstance(event, Update):
            smoothed = self._smoothed.add(event.loss)
            self._progress.update(
                self._task,
                completed=event.step,
                loss=_format_loss(event, smoothed if self._is_wide else None),
                rate=_format_step(event) if self._is_wide else _format_rate(event),
            )
        else:
            self.say(describe_event(event))

    def say(self, text: str) -> None:
        """Print the text above the bar."""
        self._progress.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show_stage(self, what: str, done: int, total: int, *facts: str) -> None:
        """Show a stage that takes long in the bar, until it ends or the next step is done."""
        self._stages.show(what, done, total, *facts)

    def _draw_stage(self, text: str) -> None:
        self._progress.update(self._task, rate=text)

    def close(self) -> None:
        """End the bar and show the cursor again."""
        self._stages.close()
        self._progress.stop()


class NotebookProgress:
    """A bar in a notebook's cell, with the events below it; needs no widgets."""

    def __init__(
        self,
        total: int,
        done: int,
        clock: Callable[[], float] = time.monotonic,
        losses: Iterable[float] = (),
    ):
        from IPython import display

        self._total, self._done, self._first, self._clock = total, done, done, clock
        self._started_at, self._drawn_at = clock(), clock()
        self._loss, self._rate, self._said = "", "", list[str]()
        self._smoothed = SmoothedLoss(losses)
        show: Callable[..., Any] = display.display
        self._handle: Any = show(self, display_id=True)

    def show(self, event: Event) -> None:
        """Move the bar, or add the event below it."""
        if not isinstance(event, Update):
            self.say(describe_event(event))
            return
        self._done, self._rate = event.step, _format_step(event)
        self._loss = _format_loss(event, self._smoothed.add(event.loss))
        if self._clock() - self._drawn_at > REDRAW_SECONDS or event.step == self._total:
            self._draw()

    def say(self, text: str) -> None:
        """Add the text below the bar."""
        self._said.append(text)
        self._draw()

    def show_stage(self, what: str, done: int, total: int, *facts: str) -> None:
        """Show the stage in the bar, until the next step is done."""
        self._rate = ", ".join([_format_stage(what, done, total), *facts])
        if self._clock() - self._drawn_at > REDRAW_SECONDS:
            self._draw()

    def close(self) -> None:
        """Draw the bar as it is at last."""
        self._draw()

    def _draw(self) -> None:
        self._drawn_at = self._clock()
        self._handle.update(self)

    def _summarize(self) -> str:
        steps = max(self._done - self._first, 1)
        left = (self._clock() - self._started_at) / steps * (self._total - self._done)
        words = [f"{self._done:,}/{self._total:,}", self._loss, self._rate]
        return "  ".join([*filter(None, words), f"{_format_duration(left)} left"])

    def __repr__(self) -> str:
        return "\n".join([self._summarize(), *self._said])

    def _repr_html_(self) -> str:
        lines = "".join(f"<br>{html.escape(text)}" for text in self._said)
        return (
            f'<progress value="{self._done}" max="{self._total}" style="width: 30%"></progress> '
            f"<code>{html.escape(self._summarize())}</code>{lines}"
        )


class NoProgress:
    """Shows nothing."""

    def show(self, event: Event) -> None:
        """Nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def show_stage(self, what: str, done: int, total: int, *facts: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing to restore."""


def _make_bar() -> "Progress":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Left

    console = Console(stderr=True)
    columns: list[ProgressColumn] = [
        MofNCompleteColumn(),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[loss]}", style="bold"),
        TextColumn("{task.fields[rate]}"),
        Left(),
        TextColumn("left", style="dim"),
    ]
    if console.width < NARROW:
        columns = [columns[0], columns[2], columns[4], columns[5]]
    return Progress(*columns, console=console, expand=console.width >= NARROW)

"""What a long computation is doing, for whoever shows it: tokenizing, loading, evaluating.

A function that may take seconds says so by `report_stage`; the program around it decides what to
show, and shows nothing by default. The setting belongs to the caller's context, so that programs
beside each other in one process do not mix.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

__all__ = [
    "ShowHeading",
    "ShowStage",
    "get_last_report",
    "get_stage_display",
    "has_display",
    "hide_stages",
    "report_heading",
    "report_stage",
    "show_headings",
    "show_stages",
]

ShowHeading = Callable[[str], None]


class ShowStage(Protocol):
    """Shows a stage: what is done, how far it is, and words about it, the most telling first."""

    def __call__(self, what: str, done: int, total: int, *facts: str) -> None:
        """Show it, in place of the one before."""
        ...


def _show_nothing(what: str, done: int, total: int, *facts: str) -> None:
    pass


def _show_no_heading(line: str) -> None:
    pass


_SHOW: ContextVar[ShowStage] = ContextVar("show", default=_show_nothing)
_SHOW_HEADING: ContextVar[ShowHeading] = ContextVar("show_heading", default=_show_no_heading)
# Of the whole process, for whoever watches it: a list of one, the last report.
_LAST = [("", 0)]


def report_stage(what: str, done: int = 0, total: int = 0, *facts: str) -> None:
    """Say what begins or goes on, and how far it is; total 0 where nobody knows.

    facts: words about it, such as a rate; the most telling first, since not all may have room.
    """
    _LAST[0] = (what, done)
    _SHOW.get()(what, done, total, *facts)


def get_last_report() -> tuple[str, int]:
    """The stage that this process reported last, "" for none, and how far it was."""
    return _LAST[0]


def has_display() -> bool:
    """Whether somebody shows the stages that are reported here."""
    return _SHOW.get() is not _show_nothing


def get_stage_display() -> ShowStage:
    """What shows the stages that are reported here."""
    return _SHOW.get()


@contextmanager
def show_stages(show: ShowStage) -> Iterator[None]:
    """A block in which `show` is called with each stage."""
    token = _SHOW.set(show)
    try:
        yield
    finally:
        _SHOW.reset(token)


@contextmanager
def hide_stages() -> Iterator[None]:
    """A block whose stages are not shown; what would show them still hears that something goes on.

    It may have something to say to that: a command looks there whether a signal came.
    """
    around = get_stage_display()
    with show_stages(lambda what, done, total, *facts: around("", 0, 0)):
        yield


def report_heading(line: str) -> None:
    """Say what computes from here on, and how: a line that stays where it is shown."""
    _SHOW_HEADING.get()(line)


@contextmanager
def show_headings(show: ShowHeading) -> Iterator[None]:
    """A block in which `show` is called with each heading."""
    token = _SHOW_HEADING.set(show)
    try:
        yield
    finally:
        _SHOW_HEADING.reset(token)

"""How many of many things are done: a bar in a terminal, else a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

__all__ = ["show_count"]

QUIET_SECONDS = 30.0


@contextmanager
def show_count(what: str, check: Callable[[], None]) -> Iterator[Callable[[int, int], None]]:
    """A block whose progress is shown on standard error by calls of (done, total).

    check: called each time; may raise KeyboardInterrupt.
    """
    if not sys.stderr.isatty():
        last = time.monotonic()

        def say(done: int, total: int) -> None:
            nonlocal last
            check()
            if time.monotonic() - last > QUIET_SECONDS:
                last = time.monotonic()
                click.echo(f"{done:,} of {total:,} {what}", err=True)

        yield say
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def draw(done: int, total: int) -> None:
            check()
            bar.update(task, completed=done, total=total)

        yield draw

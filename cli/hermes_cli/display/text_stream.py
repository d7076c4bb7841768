"""A text on standard output as a model generates it."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

__all__ = ["stream_text"]


@contextmanager
def stream_text(check: Callable[[], None] = lambda: None) -> Iterator[Callable[[str], None]]:
    """A block in which pieces of a text are shown; its warnings come after the end of the line.

    check: called before each piece; may raise KeyboardInterrupt.
    """

    def show(piece: str) -> None:
        check()
        click.echo(piece, nl=False)
        sys.stdout.flush()

    with warnings.catch_warnings(record=True) as held:
        warnings.simplefilter("always")
        yield show
    click.echo()
    for one in held:
        warnings.showwarning(one.message, one.category, one.filename, one.lineno)

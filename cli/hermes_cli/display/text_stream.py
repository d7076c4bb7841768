"""A text on standard output as a model generates it."""

import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

__all__ = ["make_visible", "print_text", "stream_text"]

# A terminal would obey them: a little-trained model writes bytes of all kinds, and any text may
# have been made to.
VISIBLE = (
    {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}  # their pictures
    | {0x7F: 0x2421, ord("\r"): None}
    | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)
)


def make_visible(text: str) -> str:
    """A text without control characters but line breaks and tabs."""
    return text.translate(VISIBLE)


def print_text(text: str) -> None:
    """Write what a model says to standard output, in a terminal without control characters."""
    shown = make_visible(text) if sys.stdout.isatty() else text
    click.echo(shown, nl=False, color=True)  # or what is piped on loses what looks like colours
    sys.stdout.flush()


@contextmanager
def stream_text(check: Callable[[], None] = lambda: None) -> Iterator[Callable[[str], None]]:
    """A block in which pieces of a text are shown; its warnings come after the end of the line.

    check: called before each piece; may raise KeyboardInterrupt.
    """

    def show(piece: str) -> None:
        check()
        print_text(piece)

    with warnings.catch_warnings(record=True) as held:
        warnings.simplefilter("always")
        yield show
    click.echo()
    for one in held:
        warnings.showwarning(one.message, one.category, one.filename, one.lineno)

"""A text on standard output as a model makes it."""

import sys
import warnings
from collections.abc import Iterable

import click

__all__ = ["streamed"]


def streamed(pieces: Iterable[str]) -> None:
    """Show a text piece by piece; what is warned of meanwhile comes behind the end of its line."""
    with warnings.catch_warnings(record=True) as held:
        warnings.simplefilter("always")
        for piece in pieces:
            click.echo(piece, nl=False)
            sys.stdout.flush()
    click.echo()
    for one in held:
        warnings.showwarning(one.message, one.category, one.filename, one.lineno)

"""Generated text on standard output, as it comes."""

import sys
import warnings
from collections.abc import Iterable

import click

__all__ = ["stream_text"]


def stream_text(pieces: Iterable[str]) -> None:
    """Print text piece by piece; warnings raised meanwhile are shown after the end of the line."""
    with warnings.catch_warnings(record=True) as held:
        warnings.simplefilter("always")
        for piece in pieces:
            click.echo(piece, nl=False)
            sys.stdout.flush()
    click.echo()
    for one in held:
        warnings.showwarning(one.message, one.category, one.filename, one.lineno)

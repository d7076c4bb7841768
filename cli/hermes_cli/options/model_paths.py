"""Where the models that a user names are on this machine."""

from pathlib import Path

import click

__all__ = ["fetch_model"]


def fetch_model(place: str | Path) -> Path:
    """The local path of a model, downloaded first if it is on the Hub; prints notes to stderr."""
    from hermes.interop.hub import resolve_hub_path

    found, notes = resolve_hub_path(place)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    return found

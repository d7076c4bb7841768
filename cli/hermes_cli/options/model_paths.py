"""Where the models that a user names are on this machine."""

import os
from pathlib import Path

import click

__all__ = ["fetch_model", "locate_model", "print_notes"]


def fetch_model(model: str | Path) -> Path:
    """The local path of a model, downloaded first if it is on the Hub; prints notes to stderr."""
    path = Path(model)
    if path.exists() or (len(path.parts) == 1 and not path.suffix):
        return path  # neither on the Hub nor after an epoch, which takes a while to find out
    from hermes.interop.hub import resolve_hub_path

    found, notes = resolve_hub_path(model)
    print_notes(notes)
    return found


def locate_model(model: str) -> str | os.PathLike[str]:
    """The model's path or name as `mal.load` takes it; prints notes to stderr.

    Of a run this is its newest checkpoint, of a model on the Hub the local copy.
    """
    from hermes.interop.architecture import locate_architecture

    found, notes = locate_architecture(model)
    print_notes(notes)
    return found


def print_notes(notes: tuple[str, ...]) -> None:
    """Print notes on a model to stderr."""
    for note in notes:
        click.echo(f"note: {note}", err=True)

"""Where the models that a user names are on this machine."""

from pathlib import Path

import click

__all__ = ["fetch_model", "locate_model"]


def fetch_model(place: str | Path) -> Path:
    """The local path of a model, downloaded first if it is on the Hub; prints notes to stderr."""
    path = Path(place)
    if path.exists() or (len(path.parts) == 1 and not path.suffix):
        return path  # neither on the Hub nor after an epoch, which takes a while to find out
    from hermes.interop.hub import resolve_hub_path

    found, notes = resolve_hub_path(place)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    return found


def locate_model(model: str) -> str:
    """The model's path or name as `mal.load` takes it.

    Of a run this is its newest checkpoint, of a model on the Hub the local copy.
    """
    folder = fetch_model(model)
    model = str(folder) if model.startswith("hf:/") else model
    if folder.is_dir() and not (folder / "model.mal").is_file():
        from hermes.checkpoint import list_steps

        found = list_steps(folder)
        return str(found[0][1]) if found else model
    return model

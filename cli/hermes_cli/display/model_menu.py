"""A menu of the models in and below the current folder."""

from collections.abc import Callable
from pathlib import Path

import click

from hermes.errors import DataError
from hermes_cli.display.line_input import read_line

__all__ = ["choose_model", "find_models"]

DEPTH = 2  # folders below the current one that are looked into
MOST = 20


def find_models(folder: Path) -> list[Path]:
    """Find runs, checkpoints and Hugging Face folders, the newest first."""
    found = []
    level = [folder]
    for _ in range(DEPTH + 1):
        inner = []
        for one in level:
            if _is_model(one):
                found.append(one)
            else:
                inner += [entry for entry in _list_folders(one) if not entry.name.startswith(".")]
        level = inner
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)[:MOST]


def _list_folders(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if entry.is_dir())
    except OSError:
        return []


def _is_model(folder: Path) -> bool:
    from hermes.checkpoint import list_steps

    has_weights = any(folder.glob("*.safetensors"))
    return bool(list_steps(folder)) or (has_weights and (folder / "config.json").is_file())


def choose_model(folder: Path, make_one: Callable[[], Path]) -> Path | None:
    """Ask which model to talk to; None to end. make_one: trains one where there is none to choose.

    Reads lines from the terminal, and asks again for what is no answer.
    """
    models = find_models(folder)
    for number, model in enumerate(models, start=1):
        click.echo(f"  {number}  {_describe(model, folder)}", err=True)
    click.echo("  n  train a small model now, in a few minutes (hermes quickstart)", err=True)
    while True:
        try:
            answer = read_line("Which model? ").strip().lower()
        except DataError:
            answer = ""
        if answer in ("q", "quit"):
            return None
        if answer == "n":
            return make_one()
        if answer.isdecimal() and 1 <= int(answer) <= len(models):
            return models[int(answer) - 1]
        known = f"a number from 1 to {len(models)}, " if models else ""
        click.echo(f"answer {known}n, or q to end", err=True)


def _describe(model: Path, folder: Path) -> str:
    from hermes.checkpoint import list_steps

    steps = list_steps(model)
    name = str(model.relative_to(folder)) if model != folder else "this folder"
    return f"{name}, step {steps[0][0]:,}" if steps else name

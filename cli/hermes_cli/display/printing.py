"""Prints what a command found, as text or as JSON."""

import json
from collections.abc import Iterable

import click

__all__ = ["print_json", "print_lines"]


def print_lines(lines: Iterable[str]) -> None:
    """Print lines; those that are not indented are headings, bold on a terminal."""
    for line in lines:
        click.echo(line if line.startswith(" ") else click.style(line, bold=True))


def print_json(value: object) -> None:
    """Print a value as indented JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False))

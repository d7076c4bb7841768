"""`hermes plot`: the curves of one run or several, as a picture and in the terminal."""

import shutil
import sys

import click

from hermes.errors import HermesError
from hermes_cli.options.declarations import declare_command


def can_show_braille() -> bool:
    """Whether stdout can show braille patterns, which draw eight dots per character."""
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


@declare_command("plot")
def plot(runs: tuple[str, ...], png: str | None, no_png: bool) -> None:
    """Plot the losses, learning rates and speeds of runs.

    The curves are read from the runs' metrics.jsonl. The losses are drawn in the terminal, and all
    of them into a picture.
    """
    from hermes.api_watching import choose_picture
    from hermes.training.plot import draw_png, draw_text, read_curves

    if no_png and png is not None:
        raise HermesError("--png and --no-png are both given; keep one")
    curves = read_curves(runs)
    width = min(shutil.get_terminal_size().columns, 100)
    for one in curves:
        if len(curves) > 1:
            click.echo(one.name)
        click.echo(draw_text(one, width=width, braille=can_show_braille()))
    if no_png:
        return
    path = choose_picture(runs, png)
    draw_png(curves, path)
    click.echo(f"wrote {path}", err=True)

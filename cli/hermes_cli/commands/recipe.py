"""`hermes recipe`: a run worked out from a size and a number of tokens."""

from pathlib import Path
from typing import Any

import click

import hermes
from hermes_cli.display.printing import print_lines
from hermes_cli.options.declarations import declare_command


@declare_command("recipe")
def recipe(*, model: str | None, output: Path | None, **arguments: Any) -> None:
    """Work out a run from a size: a YAML file for hermes train --config.

    One of --params, --depth and --model says the size. Width, heads, batch, learning rate and steps
    follow from it and from --tokens by rules whose sources the file names; micro-batches are the
    largest that fit into the device.
    """
    found = hermes.make_recipe(model=model, output=output, **arguments)
    if output is None:
        print_lines(found.text.splitlines())
    else:
        click.echo(f"wrote {output}", err=True)

"""`hermes convert`: a model from one form into another, with a proof."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hermes_cli.display.conversion import _facts, lines_of, watching

if TYPE_CHECKING:
    pass


@click.command()
@click.argument("src", type=click.Path(path_type=Path))
@click.argument("dst", type=click.Path(path_type=Path))
@click.option(
    "--to",
    required=True,
    type=click.Choice(["hermes", "hf"]),
    help="hermes: a checkpoint. hf: a folder under Hugging Face's own names.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Of the weights.  [default: as they are stored]",
)
@click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="The architecture of a file that does not carry it: config.json, .mal or litgpt's .yaml.",
)
@click.option(
    "--backend",
    default="auto",
    metavar="auto|torch|mlx|numpy",
    help="What computes the proof; auto: one that is installed.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
def convert(
    src: Path,
    dst: Path,
    to: str,
    dtype: str | None,
    config: Path | None,
    backend: str,
    as_json: bool,
) -> None:
    """Write the model at SRC as the new folder DST.

    SRC is a checkpoint or run of hermes, a Hugging Face or litgpt folder, a .safetensors with its
    config, or a .pt that nanoGPT trained. At the end every tensor and the logits of source and
    result are compared.
    """
    from hermes.interop.convert import convert as make

    with watching() as on_progress:
        done = make(
            src,
            dst,
            to=to,
            dtype=dtype,
            config=config,
            backend=None if backend == "auto" else backend,
            on_progress=on_progress,
        )
    for note in done.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        click.echo(json.dumps(_facts(done), indent=2))
        return
    for line in lines_of(done):
        click.echo(line)

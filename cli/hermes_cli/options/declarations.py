"""Options that several commands share, and how their values become the library's."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from hermes.interface import Options

BACKEND = click.option(
    "--backend",
    default="auto",
    metavar="auto|torch|mlx",
    help="auto: mlx on Apple silicon, else torch.",
)
DEVICE = click.option("--device", help="One that `hermes doctor` lists.  [default: the fastest]")
PRECISION = click.option(
    "--precision",
    default="float32",
    metavar="float32|tf32|bfloat16|float16|float64",
    help="Of matrix products and activations; weights and optimizer stay float32.",
)
TEMPERATURE = click.option(
    "--temperature", type=float, default=0.8, help="0: the likeliest token, always."
)
TOP_K = click.option("--top-k", type=int, default=0, help="Only the k likeliest tokens; 0: all.")
TOP_P = click.option(
    "--top-p", type=float, default=1.0, help="Only the likeliest that reach this share."
)
MIN_P = click.option(
    "--min-p", type=float, default=0.0, help="Only those this likely beside the best."
)
TO = click.option(
    "--to",
    default="hermes",
    type=click.Choice(["hermes", "hf"]),
    help="A checkpoint, or a folder under Hugging Face's own names.",
)
SEED = click.option("--seed", type=int, default=0, help="Decides every random number.")
CHECKPOINT = click.option(
    "--checkpoint",
    "-c",
    required=True,
    type=click.Path(path_type=Path),
    help="A checkpoint, a run (its newest checkpoint), a bare .safetensors with --config, or "
    "hf://OWNER/REPO[@REVISION].",
)
CONFIG = click.option(
    "--config",
    type=click.Path(path_type=Path),
    help="Beside a bare .safetensors: its config.json or .mal.",
)
TOKENIZER = click.option(
    "--tokenizer",
    "-t",
    type=click.Path(path_type=Path),
    help="A tokenizer.json.  [default: the checkpoint's own]",
)


def options(
    device: str | None,
    precision: str,
    *,
    compile: bool | None = None,
    grad_checkpoint: bool = False,
    shard: str | None = None,
    shard_group: int | None = None,
) -> "Options":
    """The library's Options."""
    from hermes.interface import Options

    return Options(
        device=device,
        precision=precision,
        compile=compile,
        grad_checkpoint=grad_checkpoint,
        shard=shard,
        shard_group=shard_group,
    )


def here(place: str | Path) -> Path:
    """A model's place on this machine, fetched first where it is on the Hub; notes to stderr."""
    from hermes.interop.hub import resolve_hub_path

    found, notes = resolve_hub_path(place)
    for note in notes:
        click.echo(f"note: {note}", err=True)
    return found

"""`hermes push`: a model to the Hugging Face Hub."""

from pathlib import Path

import click

from hermes_cli.options.declarations import CONFIG, TO
from hermes_cli.training.hub_upload import pushed


@click.command()
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.argument("repo", metavar="OWNER/REPO")
@TO
@click.option(
    "--dtype",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    help="Of the weights.  [default: as they are stored]",
)
@click.option("--public", is_flag=True, help="A repository that is made is private without this.")
@CONFIG
def push(
    checkpoint: Path, repo: str, to: str, dtype: str | None, public: bool, config: Path | None
) -> None:
    """Put the model at CHECKPOINT on the Hub, in one commit, as what OWNER/REPO holds.

    It is what `hermes convert` makes of it: weights, architecture and tokenizer, adapters merged
    in, no optimizer state. A repository that is not there is made. The token is HF_TOKEN or that of
    `hf auth login`.
    """
    pushed(checkpoint, repo, to=to, dtype=dtype, public=public, config=config)

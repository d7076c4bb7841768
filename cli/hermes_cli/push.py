"""`hermes push`: a model to the Hugging Face Hub."""

from pathlib import Path

import click

from hermes_cli.options import CONFIG, TO


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


def pushed(
    checkpoint: Path,
    repo: str,
    *,
    to: str = "hermes",
    dtype: str | None = None,
    public: bool = False,
    config: Path | None = None,
) -> None:
    """Put a model on the Hub and say where it is. Raises HermesError."""
    from hermes.interop.publish import publish
    from hermes_cli.convert import watching

    with watching() as watch:
        done = publish(
            checkpoint, repo, to=to, dtype=dtype, public=public, config=config, watch=watch
        )
    for note in done.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"pushed: {done.page}, commit {done.commit[:12]}", err=True)

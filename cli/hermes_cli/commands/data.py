"""`hermes data`: verify prepared text, or show its documents."""

import dataclasses
import json
from pathlib import Path

import click

from hermes_cli.display.help_sections import SectionedGroup
from hermes_cli.options.declarations import declare_command


@click.group(cls=SectionedGroup, no_args_is_help=True)
def data() -> None:
    """Verify prepared text, or show its documents."""


@declare_command("data verify", data)
def verify(folder: Path, as_json: bool) -> None:
    """Verify every byte of a folder of prepared text against the hashes in its manifest.

    Exits with 1 if a shard is damaged, missing or too short.
    """
    import hermes

    found = hermes.verify_data(folder, progress=True)
    if as_json:
        click.echo(json.dumps({**dataclasses.asdict(found), "output": str(found.output)}))
        return
    click.echo(
        f"{folder}: whole, {found.tokens:,} tokens of {found.documents:,} documents in "
        f"{found.shards:,} shards"
    )


@declare_command("data show", data)
def show(folder: Path, document: int, tokenizer: str | None) -> None:
    """Show a document of prepared text as training reads it, special tokens by their names."""
    import hermes

    found = hermes.show_document(folder, document, tokenizer=tokenizer)
    click.echo(f"document {found.number:,}: {found.where}, {found.tokens:,} tokens", err=True)
    click.echo(found.text)

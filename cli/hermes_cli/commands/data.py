"""`hermes data`: check text, verify prepared text, or show its documents."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hermes.errors import DataError, HermesError
from hermes.formatting import format_count
from hermes_cli.display.help_sections import SectionedGroup
from hermes_cli.options.declarations import declare_command

if TYPE_CHECKING:
    from hermes.data.checking import Findings


@click.group(cls=SectionedGroup, no_args_is_help=True)
def data() -> None:
    """Check text, verify what was prepared, or show its documents."""


@declare_command("data check", data)
def check(
    more: tuple[str, ...],
    data: tuple[str, ...],
    text_field: str,
    format: str | None,
    documents: str,
    no_header: bool,
    tokenizer: str | None,
    val_data: tuple[str, ...],
    seq_len: int,
    as_json: bool,
) -> None:
    """Look through text for what would spoil a run, before it is paid for.

    Reports bad records, text that was decoded wrongly, repeated documents, overlap with the
    validation text, fields that are not read, and lengths. Exits with 1 if there is a fault.
    """
    import hermes

    names = (*data, *more) or ("-",)
    if "-" in names and sys.stdin.isatty():
        raise HermesError("no data: give --data F, or text on standard input")
    found = hermes.check_data(
        names,
        text_field=text_field,
        format=format,
        documents=documents,
        no_header=no_header,
        tokenizer=tokenizer,
        val_data=val_data,
        seq_len=seq_len,
    )
    faults = found.faults
    if as_json:
        facts = dataclasses.asdict(found) | {"bytes_per_token": found.bytes_per_token}
        click.echo(json.dumps(facts | {"faults": faults}, indent=2))
    else:
        for line in describe_findings(found, seq_len):
            click.echo(line)
    if faults:
        raise DataError(f"the data has faults of {format_count(len(faults), 'kinds')}")


def describe_findings(found: "Findings", seq_len: int) -> list[str]:
    """Lines with what was found, the lengths as bars."""
    text = f"{format_count(found.documents, 'documents')}, {found.text_bytes:,} bytes of text"
    lines = [f"read       {format_count(found.files, 'files')}, {text}"]
    unit = "characters"
    if found.tokens is not None and found.bytes_per_token is not None:
        unit = "tokens"
        lines.append(
            f"tokens     {found.tokens:,}, {found.bytes_per_token:.2f} bytes each; "
            f"{format_count(found.longer or 0, 'documents')} longer than {seq_len}"
        )
    lines.append(f"lengths    in {unit}, the longest {found.longest:,}")
    most = max(found.lengths.values(), default=1)
    for below, count in found.lengths.items():
        lines.append(
            f"  {below // 2:>9,} to {below - 1:>9,}  {count:>9,}  {'#' * (40 * count // most)}"
        )
    if found.unread:
        each = ", ".join(f"{name!r} {count:,}" for name, count in found.unread.items())
        lines.append(f"not read   {each}")
    if found.repeated.count:
        lines.append(
            f"repeated   {format_count(found.repeated.count, 'documents')}; the first: "
            f"{found.repeated.first[0]}"
        )
    lines += [f"fault      {fault}" for fault in found.faults]
    return lines


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

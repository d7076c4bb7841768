"""`hermes prepare`: tokenize text once, into shards that training reads."""

import dataclasses
import json
import sys
from pathlib import Path

import click

from hermes.errors import HermesError
from hermes_cli.options.declarations import declare_command


@declare_command("prepare")
def prepare(
    more: tuple[str, ...],
    data: tuple[str, ...],
    text_field: str,
    format: str | None,
    documents: str,
    no_header: bool,
    skip_bad_records: bool,
    max_bad_records: float,
    tokenizer: str | None,
    eos: str | None,
    bos: bool | None,
    output: Path,
    shard_size: int,
    workers: int | None,
    part: str | None,
    merge: bool,
    verbose: bool,
    quiet: bool,
    log_file: Path | None,
    as_json: bool,
) -> None:
    """Tokenize text once, into shards that training reads.

    Writes the tokens, an index of documents and a manifest with the hashes of everything to
    --output, which hermes train takes as --data. A command that was stopped continues where it
    was when it is given again, and the result is the same bytes.

    --part I/N does one part of the work, for a job array or several machines that see the same
    files; --merge then writes the manifest.
    """
    import hermes

    names = (*data, *more) or (() if merge else ("-",))
    if "-" in names and sys.stdin.isatty():
        raise HermesError("no data: give --data F, or text on standard input")
    done = hermes.prepare(
        names,
        tokenizer,
        eos=eos,
        bos=bos,
        output=output,
        text_field=text_field,
        format=format,
        documents=documents,
        no_header=no_header,
        skip_bad_records=skip_bad_records,
        max_bad_records=max_bad_records,
        shard_size=shard_size,
        workers=workers,
        part=part,
        merge=merge,
        verbose=verbose,
        quiet=quiet,
        log_file=log_file,
        progress=True,
    )
    for note in () if verbose else done.notes:
        click.echo(note, err=True)
    if as_json:
        facts = {**dataclasses.asdict(done), "output": str(done.output)}
        click.echo(json.dumps(facts))
        return
    if not (verbose or quiet):
        click.echo(done.describe(part), err=True)

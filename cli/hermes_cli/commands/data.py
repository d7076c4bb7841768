"""`hermes data`: check text, verify prepared text, or show its documents."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hermes.errors import DataError, HermesError
from hermes.formatting import format_count
from hermes_cli.display.data_findings import describe_findings
from hermes_cli.display.help_sections import SectionedGroup
from hermes_cli.options.declarations import declare_command

if TYPE_CHECKING:
    from hermes.data.tracing import DocumentTrace, TracedSample


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
    kind: str,
    template: str | None,
    seq_len: int,
    near_duplicates: float | None,
    show_samples: int,
    plot: Path | None,
    batch_size: int,
    grad_accum: int,
    epochs: float,
    tokens_per_second: float,
    price_per_hour: float,
    as_json: bool,
) -> None:
    """Look through data for what would spoil a run, before it is paid for.

    Reports bad records, text that was decoded wrongly, repeated documents, overlap with the
    validation text, fields that are not read, writing systems, lengths, and with --tokenizer
    tokens, examples with the trained tokens highlighted, and the steps, tokens and hours of a run.
    Exits with 1 if there is a fault.
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
        kind=kind,
        template=template,
        seq_len=seq_len,
        near_duplicates=near_duplicates,
        show_samples=show_samples,
        plot=plot,
        batch_size=batch_size,
        grad_accum=grad_accum,
        epochs=epochs,
        tokens_per_second=tokens_per_second,
        price_per_hour=price_per_hour,
    )
    faults = found.faults
    if as_json:
        facts = dataclasses.asdict(found) | {"bytes_per_token": found.bytes_per_token}
        click.echo(json.dumps(facts | {"faults": faults}, indent=2))
    else:
        for line in describe_findings(found, seq_len):
            click.echo(line)
        if plot is not None:
            click.echo(f"{plot}: the lengths", err=True)
    if faults:
        raise DataError(f"the data has faults of {format_count(len(faults), 'kinds')}")


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
        f"{folder}: whole, {format_count(found.tokens, 'tokens')} of "
        f"{format_count(found.documents, 'documents')} in {format_count(found.shards, 'shards')}"
    )


@declare_command("data show", data)
def show(
    folder: Path,
    document: int | None,
    step: int | None,
    tokenizer: str | None,
    seq_len: int | None,
    batch_size: int | None,
    grad_accum: int | None,
    seed: int | None,
    val_fraction: float | None,
) -> None:
    """Show a document, or the sequences of a step, as training reads them.

    Special tokens are shown by their names. --document takes a folder of hermes prepare. --step
    takes a run, for what its step read or will read, or a folder of hermes prepare, for what a run
    of one process with --seq-len, --batch-size, --grad-accum, --seed and --val-fraction takes.
    """
    import hermes

    given = {
        "seq_len": seq_len,
        "batch_size": batch_size,
        "grad_accum": grad_accum,
        "seed": seed,
        "val_fraction": val_fraction,
    }
    if step is None:
        if named := [name for name, value in given.items() if value is not None]:
            raise HermesError(f"--{named[0].replace('_', '-')} belongs to --step; give both")
        found = hermes.show_document(folder, document or 0, tokenizer=tokenizer)
        many = format_count(found.tokens, "tokens")
        click.echo(f"document {found.number:,}: {found.where}, {many}", err=True)
        click.echo(found.text)
        return
    if document is not None:
        raise HermesError("--document and --step are given; keep one of them")
    for shown in hermes.show_step(folder, step, tokenizer=tokenizer, **given):  # type: ignore[arg-type]
        for line in describe_sample(shown.sample):
            click.echo(line, err=True)
        click.echo(shown.text)


@declare_command("data trace", data)
def trace(run: Path, document: str | None, step: int | None, as_json: bool) -> None:
    """Tell which steps of a run read a document, or which documents a step read.

    Steps that the run has not made yet are told, too. Answers come from data.json in the run and
    the index of its documents; no text is read.
    """
    import hermes

    if (document is None) == (step is None):
        raise HermesError("give --document FILE:LINE or --step S, one of them")
    if step is not None:
        samples = hermes.trace_step(run, step)
        if as_json:
            facts = [dataclasses.asdict(sample) for sample in samples]
            click.echo(json.dumps({"step": step, "rows": facts}))
            return
        for sample in samples:
            for line in describe_sample(sample):
                click.echo(line)
        return
    assert document is not None, "one of them is given"
    traces = hermes.trace_document(run, document)
    if as_json:
        click.echo(json.dumps({"documents": [dataclasses.asdict(one) for one in traces]}))
        return
    for one in traces:
        for line in describe_trace(one):
            click.echo(line)


def describe_sample(sample: "TracedSample") -> list[str]:
    """Lines with a row of a step and the documents in it."""
    who = f" (rank {sample.rank}, micro-batch {sample.micro_batch})"
    lines = [f"row {sample.row:,}{who}: {sample.source}, epoch {sample.epoch + 1:,}"]
    for part in sample.parts:
        lines.append(f"  {part.where}  {_describe_tokens(part.first, part.last, part.tokens)}")
    return lines


def describe_trace(found: "DocumentTrace") -> list[str]:
    """Lines with a document and the steps that read it."""
    lines = [f"{found.where}: {format_count(found.tokens, 'tokens')}, {_count_steps(found)}"]
    if found.held_out:
        held_out = format_count(found.held_out, "tokens are", "token is")
        lines.append(f"  {held_out} held out for validation")
    if found.absent:
        lines.append(f"  {found.absent}")
    for one in found.readings:
        when = "" if one.step <= found.steps_done else "  to come"
        lines.append(
            f"  step {one.step:>7,}  epoch {one.epoch + 1}  row {one.row} (rank {one.rank})  "
            f"{_describe_tokens(one.first, one.last, found.tokens)}{when}"
        )
    return lines


def _count_steps(found: "DocumentTrace") -> str:
    done = sum(step <= found.steps_done for step in found.steps)
    words = f"read by {format_count(done, 'steps')}"
    if later := len(found.steps) - done:
        words += f", to be read by {later:,} more"
    return words


def _describe_tokens(first: int, last: int, tokens: int) -> str:
    if last - first == tokens:
        return f"all {tokens:,} tokens" if tokens > 1 else "its token"
    return f"tokens {first + 1:,} to {last:,} of {tokens:,}"

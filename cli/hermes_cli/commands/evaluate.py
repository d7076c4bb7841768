"""`hermes eval`: how well a model predicts a text."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hermes.formatting import format_columns
from hermes_cli.options.declarations import declare_command

if TYPE_CHECKING:
    from hermes import EvalResult


@declare_command("eval")
def eval_(
    more: tuple[str, ...],
    checkpoint: Path,
    config: Path | None,
    ignore_fields: tuple[str, ...],
    use_ema: bool,
    tokenizer: Path | None,
    eos: str | None,
    bos: bool | None,
    data: tuple[str, ...],
    text_field: str,
    format: str | None,
    documents: str,
    no_header: bool,
    skip_bad_records: bool,
    max_bad_records: float,
    cache_dir: str | None,
    seq_len: int | None,
    batch_size: int,
    tasks: tuple[str, ...],
    include_path: Path | None,
    num_fewshot: int | None,
    limit: float | None,
    apply_chat_template: bool,
    verbose: bool,
    quiet: bool,
    log_file: Path | None,
    as_json: bool,
    backend: str,
    device: str | None,
    precision: str,
    force: bool,
) -> None:
    """Measure loss, perplexity and bits per byte on texts, and scores on tasks.

    The loss is in nats per token.
    """
    import hermes
    from hermes.errors import HermesError

    names = (*data, *more) or (() if tasks else ("-",))
    if "-" in names and sys.stdin.isatty():
        raise HermesError("no data: give --data F, or text on standard input, or --tasks NAMES")
    found = hermes.evaluate(
        checkpoint,
        names,
        config=config,
        ignore_fields=ignore_fields,
        use_ema=use_ema,
        tokenizer=tokenizer,
        eos=eos,
        bos=bos,
        text_field=text_field,
        format=format,
        documents=documents,
        no_header=no_header,
        skip_bad_records=skip_bad_records,
        max_bad_records=max_bad_records,
        cache_dir=cache_dir,
        seq_len=seq_len,
        batch_size=batch_size,
        tasks=tasks,
        include_path=include_path,
        num_fewshot=num_fewshot,
        limit=limit,
        apply_chat_template=apply_chat_template,
        backend=backend,
        device=device,
        precision=precision,
        force=force,
        verbose=verbose,
        quiet=quiet,
        log_file=log_file,
    )
    if as_json:
        click.echo(json.dumps(found.to_json()))
        return
    if found.tokens:
        _print_texts(found)
    if found.tokens and found.tasks:
        click.echo()
    if found.tasks:
        _print_tasks(found)


def _print_texts(found: "EvalResult") -> None:
    """Print the numbers of a text, or a table of each of several and of all."""
    if not found.files:
        click.echo(f"loss           {found.val_loss:.4f} nats per token")
        click.echo(f"perplexity     {found.perplexity:,.2f}")
        click.echo(f"bits per byte  {found.bits_per_byte:.4f}")
        click.echo(f"tokens         {found.tokens:,}")
        return
    rows = [("loss", "perplexity", "bits per byte", "tokens", "")]
    for one in (*found.files, found):
        rows.append((
            f"{one.val_loss:.4f}", f"{one.perplexity:,.2f}", f"{one.bits_per_byte:.4f}",
            f"{one.tokens:,}", one.name or "all",
        ))  # fmt: skip
    _print_table(rows)


def _print_tasks(found: "EvalResult") -> None:
    """Print a table of scores, a line for each metric."""
    rows = [("score", "stderr", "few-shot", "questions", "task and metric")]
    for one in found.tasks:
        picked = "" if one.filter == "none" else f" ({one.filter})"
        rows.append((
            f"{one.value:.4f}",
            "" if one.stderr is None else f"{one.stderr:.4f}",
            "" if one.num_fewshot is None else str(one.num_fewshot),
            "" if one.samples is None else f"{one.samples:,}",
            f"{one.task} {one.metric}{picked}",
        ))  # fmt: skip
    _print_table(rows)


def _print_table(rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows of numbers, each with a name at its end."""
    for line in format_columns(rows, right=range(len(rows[0]) - 1)):
        click.echo(line)

"""`hermes eval`: how well a model predicts a text."""

import dataclasses
import json
import sys
from pathlib import Path

import click

from hermes_cli.options.declarations import declare_command


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
    as_json: bool,
    backend: str,
    device: str | None,
    precision: str,
    force: bool,
) -> None:
    """Measure loss, perplexity and bits per byte on a text.

    The loss is in nats per token.
    """
    import hermes
    from hermes.errors import HermesError

    names = (*data, *more) or ("-",)
    if "-" in names and sys.stdin.isatty():
        raise HermesError("no data: give --data F, or text on standard input")
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
        backend=backend,
        device=device,
        precision=precision,
        force=force,
    )
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(found)))
        return
    click.echo(f"loss           {found.val_loss:.4f} nats per token")
    click.echo(f"perplexity     {found.perplexity:,.2f}")
    click.echo(f"bits per byte  {found.bits_per_byte:.4f}")
    click.echo(f"tokens         {found.tokens:,}")

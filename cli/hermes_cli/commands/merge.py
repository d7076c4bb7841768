"""`hermes merge`: a model with its low-rank adapters added in."""

from pathlib import Path

import click

from hermes_cli.options.declarations import declare_command


@declare_command("merge")
def merge(
    checkpoint: Path,
    adapter: Path | None,
    output: Path,
    to: str,
    dtype: str,
    config: Path | None,
    ignore_fields: tuple[str, ...],
    force: bool,
) -> None:
    """Merge LoRA adapters into the weights.

    Each adapted matrix W becomes W + alpha / rank * B A. The adapters are those of the checkpoint
    itself, if its run trained any, or those of --adapter.
    """
    import hermes
    from hermes_cli.display.conversion import format_conversion

    done = hermes.merge(
        checkpoint,
        output,
        adapter=adapter,
        to=to,
        dtype=dtype,
        config=config,
        ignore_fields=ignore_fields,
        force=force,
    )
    for note in done.notes:
        click.echo(f"note: {note}", err=True)
    for line in format_conversion(done.conversion):
        click.echo(line)

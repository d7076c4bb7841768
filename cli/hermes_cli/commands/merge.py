"""`hermes merge`: a model with its low-rank adapters added in."""

from pathlib import Path

import click

from hermes_cli.options.declarations import declare_command


@declare_command("merge")
def merge(
    checkpoint: Path, adapter: Path | None, output: Path, to: str, dtype: str, config: Path | None
) -> None:
    """Merge LoRA adapters into the weights.

    Each adapted matrix W becomes W + alpha / rank * B A. The adapters are those of the checkpoint
    itself, if its run trained any, or those of --adapter.
    """
    from hermes.errors import HermesError
    from hermes.interop.convert import convert
    from hermes.interop.open_model import open_model
    from hermes_cli.display.conversion import format_conversion

    if adapter is None and not open_model(checkpoint, config=config).adapted:
        raise HermesError(f"{checkpoint} has no adapters to merge; give them with --adapter DIR")
    done = convert(checkpoint, output, to=to, dtype=dtype, config=config, adapter=adapter)
    for note in done.notes:
        click.echo(f"note: {note}", err=True)
    for line in format_conversion(done):
        click.echo(line)

"""`hermes convert`: a model from one form into another, with a proof."""

import json
from pathlib import Path

import click

from hermes_cli.display.conversion import describe_conversion, format_conversion
from hermes_cli.options.declarations import declare_command


@declare_command("convert")
def convert(
    src: Path,
    dst: Path,
    to: str,
    dtype: str | None,
    config: Path | None,
    ignore_fields: tuple[str, ...],
    use_ema: bool,
    backend: str,
    force: bool,
    as_json: bool,
) -> None:
    """Convert a model to another format and verify the result.

    SRC is a checkpoint or run of hermes, a Hugging Face or litgpt folder, a .safetensors file with
    its config, or a .pt file written by nanoGPT; hf://OWNER/REPO is downloaded first. At the end,
    every tensor and the logits of source and result are compared.
    """
    import hermes

    done = hermes.convert(
        src,
        dst,
        to=to,
        dtype=dtype,
        config=config,
        ignore_fields=ignore_fields,
        use_ema=use_ema,
        backend=backend,
        force=force,
    )
    for note in done.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        click.echo(json.dumps(describe_conversion(done.conversion), indent=2))
        return
    for line in format_conversion(done.conversion):
        click.echo(line)

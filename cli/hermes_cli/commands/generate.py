"""`hermes generate`: continue a prompt, showing the text as it comes."""

import dataclasses
import json
import sys
from functools import partial
from pathlib import Path

import click

from hermes_cli.display.text_stream import stream_text
from hermes_cli.options.declarations import declare_command


@declare_command("generate")
def generate(
    checkpoint: Path,
    config: Path | None,
    tokenizer: Path | None,
    eos: str | None,
    bos: bool | None,
    prompt: str,
    max_tokens: int,
    temperature: float | None,
    top_k: int | None,
    top_p: float | None,
    min_p: float | None,
    seed: int,
    num_samples: int,
    as_json: bool,
    backend: str,
    device: str | None,
    precision: str,
) -> None:
    """Generate text from a prompt.

    The text is streamed to standard output, without the prompt.
    """
    from hermes.errors import HermesError
    from hermes.model import load

    if num_samples < 1:
        raise HermesError(f"num_samples must be at least 1, got {num_samples}")
    if prompt == "-":
        prompt = sys.stdin.read()
    model = load(
        checkpoint, backend, device, precision, config=config, tokenizer=tokenizer, eos=eos, bos=bos
    )
    sampling = model.choose_sampling(temperature, top_k, top_p, min_p)
    for index in range(num_samples):
        complete = partial(
            model.complete, prompt, max_tokens=max_tokens, sampling=sampling, seed=seed + index
        )
        if as_json:
            click.echo(json.dumps(dataclasses.asdict(complete())))
            continue
        if index:
            click.echo("---")
        if sys.stdout.isatty():
            click.echo(click.style(prompt, bold=True), nl=False)
        with stream_text() as show:
            complete(show=show)

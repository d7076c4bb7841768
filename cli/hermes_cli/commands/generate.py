"""`hermes generate`: continue a prompt, showing the text as it comes."""

import json
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hermes_cli.display.text_stream import stream_text
from hermes_cli.options.declarations import declare_command

if TYPE_CHECKING:
    from hermes.model import Model


@declare_command("generate")
def generate(
    checkpoint: Path,
    config: Path | None,
    tokenizer: Path | None,
    prompt: str,
    max_tokens: int,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    seed: int,
    num_samples: int,
    as_json: bool,
    backend: str,
    device: str | None,
    precision: str,
) -> None:
    """Generate text from a prompt.

    The text is stream_text to standard output, without the prompt.
    """
    from hermes.errors import HermesError
    from hermes.inference.sampling import Sampling
    from hermes.model import load

    sampling = Sampling(temperature, top_k, top_p, min_p)
    if num_samples < 1:
        raise HermesError(f"num_samples must be at least 1, got {num_samples}")
    if prompt == "-":
        prompt = sys.stdin.read()
    model = load(checkpoint, backend, device, precision, config=config, tokenizer=tokenizer)
    for index in range(num_samples):
        tokens = model.tokens(prompt, max_tokens=max_tokens, sampling=sampling, seed=seed + index)
        if as_json:
            click.echo(json.dumps(_whole(model, tokens) | {"seed": seed + index}))
        else:
            if index:
                click.echo("---")
            _stream(model, prompt, tokens)


def _whole(model: "Model", tokens: Generator[int, None, str]) -> dict[str, object]:
    from hermes.inference.decoding import collect_completion

    done = collect_completion(tokens)
    text = model.tokenizer.decode(done.tokens)
    return {"text": text, "tokens": len(done.tokens), "finish_reason": done.finish_reason}


def _stream(model: "Model", prompt: str, tokens: Iterator[int]) -> None:
    """Show the text as it comes; on a terminal behind its prompt."""
    if sys.stdout.isatty():
        click.echo(click.style(prompt, bold=True), nl=False)
    stream_text(_pieces(model, tokens))


def _pieces(model: "Model", tokens: Iterator[int]) -> Iterator[str]:
    stream = model.tokenizer.stream()
    yield from map(stream.push, tokens)
    yield stream.flush()

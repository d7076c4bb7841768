"""`hermes eval`: how well a model predicts a text."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hermes_cli.options.declarations import declare_command

if TYPE_CHECKING:
    from hermes.model import Model


@declare_command("eval")
def eval_(
    more: tuple[str, ...],
    checkpoint: Path,
    config: Path | None,
    tokenizer: Path | None,
    data: tuple[str, ...],
    text_field: str,
    file_format: str | None,
    seq_len: int | None,
    batch_size: int,
    as_json: bool,
    backend: str,
    device: str | None,
    precision: str,
) -> None:
    """Measure loss, perplexity and bits per byte on a text.

    The loss is in nats per token.
    """
    from hermes.data import read_documents, tokenize
    from hermes.errors import HermesError
    from hermes.evaluation.perplexity import evaluate_perplexity, make_windows
    from hermes.model import load

    names = (*data, *more) or ("-",)
    if "-" in names and sys.stdin.isatty():
        raise HermesError("no data: give --data F, or text on standard input")
    model = load(checkpoint, backend, device, precision, config=config, tokenizer=tokenizer)
    length = seq_len or _seq_len(model)
    texts = read_documents(names, text_field=text_field, file_format=file_format)
    with tokenize(texts, model.tokenizer) as stream:
        found = evaluate_perplexity(
            model.realisation,
            make_windows(stream.tokens, length, batch_size),
            int(model.tokenizer.byte_lengths[stream.tokens[1:]].sum()),
        )
    assert found is not None, "nothing stops it"
    numbers = {
        "val_loss": found.loss,
        "perplexity": found.perplexity,
        "bits_per_byte": found.bits_per_byte,
        "tokens": found.tokens,
    }
    if as_json:
        click.echo(json.dumps(numbers))
        return
    click.echo(f"loss           {found.loss:.4f} nats per token")
    click.echo(f"perplexity     {found.perplexity:,.2f}")
    click.echo(f"bits per byte  {found.bits_per_byte:.4f}")
    click.echo(f"tokens         {found.tokens:,}")


def _seq_len(model: "Model") -> int:
    """The length that the model was trained with, where a run of hermes wrote it."""
    from hermes.checkpoint import open_checkpoint

    folder = model.path
    if folder is not None and (folder / "progress.json").is_file():
        return open_checkpoint(folder, hashes=False).progress.recipe.seq_len
    return min(256, model.spec.max_seq_len)

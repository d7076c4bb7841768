"""`hermes train-tokenizer`: train a tokenizer."""

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hermes.errors import HermesError, StorageError
from hermes.storage.durable import write_atomically
from hermes.storage.temporary import TemporaryFolder
from hermes_cli.options.declarations import declare_command

if TYPE_CHECKING:
    from hermes.tokenizer import Tokenizer


@declare_command("train-tokenizer")
def train_tokenizer(
    more: tuple[str, ...],
    inputs: tuple[str, ...],
    output: Path,
    vocab_size: int,
    model_type: str,
    byte_fallback: bool,
    preset: str | None,
    nfc: bool,
    fold_ascii: bool,
    special_tokens: tuple[str, ...],
    text_field: str,
    file_format: str | None,
    documents: str,
    no_header: bool,
    skip_bad_records: bool,
    max_bad_records: float,
) -> None:
    """Train a tokenizer.

    A manifest is written beside the tokenizer, with the hashes of the input files, the settings and
    the versions of the software.
    """
    from hermes.api import train_tokenizer as train
    from hermes.data import expand_paths, spool
    from hermes.tokenizer import SPECIAL_TOKENS, build_manifest

    names = (*inputs, *more) or ("-",)
    if "-" in names and sys.stdin.isatty():
        raise HermesError("no text: give --input FILE, or text on standard input")
    if not output.parent.is_dir():
        raise StorageError(
            f"cannot write {output}: there is no folder {output.parent}; make it first"
        )
    with ExitStack() as stack:
        files = list(expand_paths(names))
        for index, file in enumerate(files):
            if str(file) == "-":
                folder = stack.enter_context(TemporaryFolder("input"))
                files[index] = spool(sys.stdin.buffer, folder, file_format=file_format or "txt")
        tokenizer = train(
            files,
            vocab_size=vocab_size,
            model_type=model_type,
            byte_fallback=byte_fallback,
            preset=preset,
            normalize_nfc=nfc,
            fold_ascii=fold_ascii,
            special_tokens=tuple(dict.fromkeys((*SPECIAL_TOKENS, *special_tokens))),
            text_field=text_field,
            file_format=file_format,
            documents=documents,
            no_header=no_header,
            skip_bad_records=skip_bad_records,
            max_bad_records=max_bad_records,
        )
        assert tokenizer.training is not None, "it has just been trained"
        record = build_manifest(tokenizer.training, tokenizer.fingerprint, files)
    _save(tokenizer, output, record)
    for warning in tokenizer.training.warnings:
        click.echo(f"Warning: {warning}", err=True)
    size = tokenizer.training.text_bytes
    click.echo(f"{output}: {tokenizer.vocab_size:,} tokens, from {size:,} bytes of text", err=True)


def _save(tokenizer: "Tokenizer", output: Path, record: dict[str, object]) -> None:
    tokenizer.save(output)
    beside = output.with_name(f"{output.stem}.manifest.json")
    write_atomically(beside, (json.dumps(record, indent=2) + "\n").encode("utf-8"))

"""`hermes train-tokenizer`: train a tokenizer."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hermes.errors import DataError, HermesError, StorageError
from hermes.storage.temporary import TemporaryFolder
from hermes_cli.options.declarations import declare_command

if TYPE_CHECKING:
    from hermes.training.new_tokenizer import TokenizerTraining


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
    split: Path | None,
    text_field: str,
    file_format: str | None,
    documents: str,
    no_header: bool,
    skip_bad_records: bool,
    max_bad_records: float,
    force_retrain_tokenizer: bool,
) -> None:
    """Train a tokenizer.

    A manifest is written beside the tokenizer, with the hashes of the input files, the settings and
    the versions of the software. A tokenizer that is there is kept if its manifest fits; nothing
    else is written over.
    """
    from hermes.api_tokenizer import train_tokenizer as train
    from hermes.data import expand_paths, spool
    from hermes.data.document_reader import TextFormat
    from hermes.tokenizer import SPECIAL_TOKENS, Tokenizer, save_split
    from hermes.tokenizer.training import Settings
    from hermes.training.new_tokenizer import TokenizerTraining

    names = (*inputs, *more) or ("-",)
    if "-" in names and sys.stdin.isatty():
        raise HermesError("no text: give --input FILE, or text on standard input")
    if not output.parent.is_dir():
        raise StorageError(
            f"cannot write {output}: there is no folder {output.parent}; make it first"
        )
    if output.is_dir():
        raise StorageError(f"cannot write {output}: it is a folder; name a file in it")
    with ExitStack() as stack:
        files = list(expand_paths(names))
        for index, file in enumerate(files):
            if str(file) == "-":
                folder = stack.enter_context(TemporaryFolder("input"))
                files[index] = spool(sys.stdin.buffer, folder, file_format=file_format or "txt")
        special = tuple(dict.fromkeys((*SPECIAL_TOKENS, *special_tokens)))
        training = TokenizerTraining(
            TextFormat(text_field, file_format, documents, no_header),
            Settings(
                vocab_size=vocab_size,
                model_type=model_type,
                byte_fallback=byte_fallback,
                preset=preset,
                normalize_nfc=nfc,
                fold_ascii=fold_ascii,
                special_tokens=special,
            ),
        )
        if not force_retrain_tokenizer and _is_kept(training, output, files):
            click.echo(f"{output} fits the text and the settings, so it is kept", err=True)
            if split is not None:
                save_split(Tokenizer.load(output), split)
            return
        tokenizer = train(
            files,
            vocab_size=vocab_size,
            model_type=model_type,
            byte_fallback=byte_fallback,
            preset=preset,
            normalize_nfc=nfc,
            fold_ascii=fold_ascii,
            special_tokens=special,
            text_field=text_field,
            file_format=file_format,
            documents=documents,
            no_header=no_header,
            skip_bad_records=skip_bad_records,
            max_bad_records=max_bad_records,
        )
    tokenizer.save(output)
    if split is not None:
        save_split(tokenizer, split)
    assert tokenizer.training is not None, "it has just been trained"
    for warning in tokenizer.training.warnings:
        click.echo(f"Warning: {warning}", err=True)
    size = tokenizer.training.text_bytes
    click.echo(f"{output}: {tokenizer.vocab_size:,} tokens, from {size:,} bytes of text", err=True)


def _is_kept(training: "TokenizerTraining", output: Path, files: "list[Path]") -> bool:
    """Whether what the training would make is there already.

    Raises HermesError where something else is there, StorageError.
    """
    from hermes.api_tokenizer import TOKENIZER_ARGUMENTS
    from hermes.tokenizer import Tokenizer

    if not output.is_file() or not output.stat().st_size:
        return False
    try:
        misfit = training.find_misfit(Tokenizer.load(output), files)
    except DataError:
        misfit = "is no tokenizer"
    for option, name in TOKENIZER_ARGUMENTS.items():
        misfit = misfit.replace(f"with {name} ", f"with --{option.replace('_', '-')} ")
    if misfit:
        raise HermesError(
            f"{output} is there already and {misfit}; name another --output, or give "
            "--force-retrain-tokenizer to replace it"
        )
    return True

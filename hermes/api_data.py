"""The public functions for data: prepare text for training, and verify and show what was."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes.arguments import convert_arguments, name_own_arguments
from hermes.call_display import display_call
from hermes.data.checking import CheckOptions, Findings, RunPlan, check_text
from hermes.data.document_reader import TextFormat
from hermes.data.file_names import read_names, require_present
from hermes.data.prepared import (
    Part,
    PreparationOptions,
    PrepareResult,
    merge_parts,
    prepare_tokens,
)
from hermes.data.prepared.documents import PreparedDocuments
from hermes.data.prepared.manifest import read_manifest
from hermes.data.prepared.verifying import verify_prepared
from hermes.data.progress import PreparationProgress, report_progress
from hermes.errors import HermesError
from hermes.interop.companions import read_template_settings
from hermes.interop.hub import load_tokenizer, resolve_hub_path
from hermes.stage_display import show_progress
from hermes.tokenizer import Tokenizer

__all__ = [
    "PrepareResult",
    "ShownDocument",
    "check_data",
    "prepare",
    "show_document",
    "verify_data",
]


@name_own_arguments
def prepare(
    data: str | Path | Sequence[str | Path] = (),
    tokenizer: Tokenizer | str | Path | None = None,
    *,
    output: str | Path,
    eos: str | None = None,
    bos: bool | None = None,
    text_field: str = "text",
    format: str | None = None,
    documents: str = "file",
    no_header: bool = False,
    skip_bad_records: bool = False,
    max_bad_records: float = 0.01,
    shard_size: int = 100_000_000,
    workers: int | None = None,
    part: str | None = None,
    merge: bool = False,
    verbose: bool = False,
    quiet: bool = False,
    log_file: str | Path | None = None,
    progress: bool | None = None,
) -> PrepareResult:
    """Tokenize text into a folder of shards, resuming where an earlier attempt stopped.

    data to max_bad_records, eos and bos: as in `train`. shard_size: bytes of text per shard.
    workers: processes that tokenize on a core each, None for all cores of this one; the shards are
    the same. part: 'I/N' does that part alone, on any machine that sees the files, and merge=True
    writes the manifest once all are done, with no argument but output. verbose: a line for each
    stage; quiet: nothing but warnings and errors; log_file: gets these lines, too, with how far it
    is. progress: as in `train`. Raises HermesError of every kind; shards that are finished stay.
    """
    a = convert_arguments(prepare, locals())
    with display_call(
        f"prepare {output}",
        progress=progress,
        verbose=a["verbose"],
        quiet=a["quiet"],
        log_file=log_file,
    ) as say:
        if a["merge"]:
            _require_alone(a)
            result = merge_parts(output)
        else:
            if not data:
                raise HermesError("no data: give data=FILE, a folder or a list of files")
            if tokenizer is None:
                raise HermesError("no tokenizer: give --tokenizer FILE")
            require_present(read_names(data))
            made = tokenizer if isinstance(tokenizer, Tokenizer) else load_tokenizer(tokenizer)
            result = prepare_tokens(
                data,
                made.replace_roles(eos=eos, bos=a["bos"]),
                output,
                options=PreparationOptions(
                    TextFormat(text_field, format, documents, no_header),
                    a["shard_size"],
                    a["max_bad_records"] if skip_bad_records else None,
                ),
                workers=a["workers"],
                part=None if part is None else Part.parse(part),
            )
        for line in (*result.notes, result.describe(part)):
            say(line)
    return result


def _require_alone(arguments: Mapping[str, Any]) -> None:
    """Raise HermesError where merge=True is given what the parts were made with."""
    beside = {"output", "merge", "verbose", "quiet", "log_file", "progress"}
    for name, parameter in inspect.signature(prepare).parameters.items():
        if name not in beside and arguments[name] != parameter.default:
            raise HermesError(
                "--merge takes the parts that are in --output, as they were made; leave "
                f"--{name.replace('_', '-')} out"
            )


@name_own_arguments
def check_data(
    data: str | Path | Sequence[str | Path] = (),
    *,
    text_field: str = "text",
    format: str | None = None,
    documents: str = "file",
    no_header: bool = False,
    tokenizer: Tokenizer | str | Path | None = None,
    val_data: str | Path | Sequence[str | Path] = (),
    kind: str = "text",
    template: str | Path | None = None,
    seq_len: int = 256,
    near_duplicates: float | None = None,
    show_samples: int = 3,
    plot: str | Path | None = None,
    batch_size: int = 32,
    grad_accum: int = 1,
    epochs: float = 1,
    tokens_per_second: float = 0.0,
    price_per_hour: float = 0.0,
) -> Findings:
    """Look through data for what would spoil a run, before it is paid for.

    data to no_header: as in `train`. tokenizer: to count tokens, None for characters. val_data:
    validation text, whose documents should not be in `data`. kind: 'text' for `train`,
    'conversations' for `sft` or 'pairs' for `dpo`, with the Jinja file `template` instead of the
    tokenizer's own. seq_len: examples of more tokens are counted. near_duplicates: the similarity
    from which on documents are told that are almost others; None not to look. show_samples: how
    many examples are kept as text. plot: a picture of the lengths to write. batch_size to epochs: a
    run, and tokens_per_second and price_per_hour its speed and price, for the bill. Raises
    HermesError of every kind.
    """
    a = convert_arguments(check_data, locals())
    if not data:
        raise HermesError("no data: give data=FILE, a folder or a list of files")
    require_present([*read_names(data), *(read_names(val_data) if val_data else ())])
    settings: dict[str, Any] | None = None
    made = tokenizer
    if made is not None and not isinstance(made, Tokenizer):
        settings = read_template_settings(resolve_hub_path(made)[0]) if kind != "text" else None
        made = load_tokenizer(made)
    found = check_text(
        data,
        validation=val_data,
        tokenizer=made,
        options=CheckOptions(
            TextFormat(text_field, format, documents, no_header),
            seq_len=a["seq_len"],
            kind=kind,
            near_duplicates=a["near_duplicates"],
            show_samples=a["show_samples"],
            plan=RunPlan(
                batch_size=a["batch_size"],
                grad_accum=a["grad_accum"],
                epochs=a["epochs"],
                tokens_per_second=a["tokens_per_second"],
                price_per_hour=a["price_per_hour"],
            ),
            template=None if template is None else Path(template),
            template_config=settings,
        ),
    )
    if plot is not None:
        from hermes.data.checking.length_plot import draw_lengths

        draw_lengths(found, Path(plot), a["seq_len"])
    return found


@name_own_arguments
def verify_data(folder: str | Path, *, progress: bool | None = None) -> PrepareResult:
    """Compare every byte of prepared text with the hashes that were taken when it was written.

    Raises DataError, which names every file that differs, is missing or has another size, and
    StorageError.
    """
    state = PreparationProgress(stage="verifying")
    with show_progress(progress):

        def watch(done: int, total: int) -> None:
            state.read, state.size = done, total
            report_progress(state)

        stream = verify_prepared(folder, watch)
    _, shards = read_manifest(Path(folder))
    counts = (len(stream), stream.documents, stream.text_bytes, stream.sources)
    return PrepareResult(Path(folder), True, len(shards), *counts)


@dataclass(frozen=True)
class ShownDocument:
    """A document of prepared text. where: its source and line; shard: where it begins."""

    number: int
    where: str
    shard: str
    tokens: int
    text: str


@name_own_arguments
def show_document(
    folder: str | Path, document: int = 0, *, tokenizer: Tokenizer | str | Path | None = None
) -> ShownDocument:
    """Read a document of prepared text by its number, from 0.

    tokenizer: None for the folder's own. Raises DataError, StorageError.
    """
    where = Path(folder)
    found = PreparedDocuments(where).read(document)
    made = (
        tokenizer
        if isinstance(tokenizer, Tokenizer)
        else load_tokenizer(where if tokenizer is None else tokenizer)
    )
    text = made.decode(found.tokens, skip_special=False)
    return ShownDocument(document, found.where, found.shard, len(found.tokens), text)

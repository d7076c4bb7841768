"""Reads documents from files and standard input in bounded memory; errors name the line.

Text is UTF-8 and kept as it is, line ends, spaces and control characters included; only a
byte-order mark at the start of a file is dropped, and with one document a line the line's end.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from hermes.data.bad_records import BadRecords, skip_or_raise
from hermes.data.compression import strip_compression
from hermes.data.file_names import expand_paths
from hermes.data.files import (
    FORMATS,
    STANDARD_INPUT,
    Paths,
    describe_compressions,
    describe_empty,
    describe_formats,
    describe_textless,
    find_format,
    name_source,
    read_items,
    require_short,
    split_lines,
)
from hermes.data.hub_datasets import is_hub_dataset, read_hub_dataset
from hermes.data.records import Record, read_file_records
from hermes.data.text_field import describe_missing_text
from hermes.errors import DataError
from hermes.formatting import describe_surrogate, name_type
from hermes.tokenizer.bytelevel import split_text

__all__ = [
    "DOCUMENTS",
    "Document",
    "TextFormat",
    "choose_format",
    "is_line_exact",
    "read_documents",
    "read_file",
    "require_text",
]

DOCUMENTS = ("file", "lines", "blank-line")


@dataclass(frozen=True)
class Document:
    """A document or a piece of a long one.

    line: where it begins, counted from 1; of Parquet and .json the number of its record. more:
    whether another piece of the same document follows.
    """

    text: str
    path: str
    line: int
    more: bool = False


@dataclass(frozen=True)
class TextFormat:
    """How files are read as documents.

    text_field: the field of a record, or the column, that holds the text. file_format: overrides
    the files' endings. documents: what is a document of plain text: the whole 'file', each of its
    'lines' that is not blank, or what stands between blank lines ('blank-line'). no_header: rows of
    CSV and TSV have no names; a document is a row, its cells with spaces between.
    """

    text_field: str = "text"
    file_format: str | None = None
    documents: str = "file"
    no_header: bool = False

    def __post_init__(self) -> None:
        if self.file_format not in (None, *FORMATS):
            raise DataError(
                f"format {self.file_format!r} is unknown; known are {', '.join(FORMATS)}"
            )
        if self.documents not in DOCUMENTS:
            raise DataError(
                f"documents {self.documents!r} is unknown; known are {', '.join(DOCUMENTS)}"
            )


def read_documents(
    paths: Paths,
    *,
    text_field: str = "text",
    file_format: str | None = None,
    documents: str = "file",
    no_header: bool = False,
    bad: BadRecords | None = None,
) -> Iterator[Document]:
    """Yield the documents of files, folders and patterns in the order given; '-' is standard input.

    .txt: one document per file, or as `documents` says. .jsonl: one per line; .json: a list; each
    item a string, or an object with a `text_field`. .csv, .tsv: one per row, with a header that has
    a `text_field` unless `no_header`. .parquet: one per row, its column `text_field`. All but the
    last may be compressed (.gz, .xz, .zst). file_format ('txt', ...) overrides the file names'
    endings; standard input is txt by default. Addresses such as s3://BUCKET/FILE are opened through
    fsspec, hf://datasets/OWNER/NAME through the datasets library.

    Long documents come in pieces with `more` set, cut where that does not change tokens; empty ones
    are skipped. Memory is needed for one line, row or item of a list. bad: counts
    bad records, which are left out; None to stop at the first.

    Raises DataError, at once for missing files and at the end where no document has text, and
    StorageError for files that cannot be read.
    """
    text_format = TextFormat(text_field, file_format, documents, no_header)
    chosen = [(path, choose_format(path, text_format)) for path in expand_paths(paths)]
    found = (one for path, kind in chosen for one in read_file(path, kind, text_format, bad=bad))
    return require_text(found, [name_source(path) for path, _ in chosen], bad)


def require_text(
    documents: Iterable[Document], names: Sequence[str], bad: BadRecords | None
) -> Iterator[Document]:
    """Yield the documents of sources with these names. Raises DataError where there is none."""
    empty = True
    for document in documents:
        empty = False
        yield document
    if empty:
        if bad is not None:
            bad.check()
        raise DataError(describe_textless(names))


TOKENS = ".bin"
# Endings of files that are no text, and would be read as one by mistake.
BINARY = {
    *(".arrow", ".bz2", ".zip", ".tar", ".tgz", ".npy", ".npz"),
    *(".safetensors", ".gguf", ".pt", ".pth", ".pdf", ".docx", ".epub", ".png", ".jpg"),
}


def choose_format(path: Path, text_format: TextFormat) -> str:
    """The format of a source: what the user says, or what its ending says.

    An unknown ending is read as text, with a warning. Raises DataError for one that is no text's.
    """
    if is_hub_dataset(path):
        return "hub"
    chosen = text_format.file_format
    if chosen is None:
        chosen = "txt" if path == STANDARD_INPUT else find_format(path)
    if chosen is None:
        ending = Path(strip_compression(path.name)[0]).suffix
        if ending.lower() == TOKENS:
            raise DataError(
                f"{name_source(path)}: a {TOKENS} file holds tokens, where text is needed; train "
                "and eval take it as it is, with the --tokenizer that made it"
            )
        if ending.lower() in BINARY:
            raise DataError(
                f"{name_source(path)}: unknown ending {ending!r}; known are {describe_formats()}, "
                f"also with {describe_compressions()} behind it: rename it, or say by "
                "--format which format it has"
            )
        what = f"unknown ending {ending!r}" if ending else "no ending"
        warnings.warn(f"{name_source(path)}: {what}, read as text; --format says otherwise")
        chosen = "txt"
    return chosen


def is_line_exact(kind: str, documents: str) -> bool:
    """Whether each document of a source is one line or record, and its line says which."""
    return kind in ("jsonl", "json", "parquet", "hub") or (kind == "txt" and documents == "lines")


def read_file(
    path: Path,
    kind: str,
    text_format: TextFormat,
    *,
    bad: BadRecords | None = None,
    wrap: Callable[[BinaryIO], BinaryIO] = lambda file: file,
    on_value: Callable[[Any], None] | None = None,
    on_share: Callable[[float], None] = lambda share: None,
) -> Iterator[Document]:
    """Yield the documents of one source, of a format that `choose_format` gave.

    on_value: told of each record as it is, with all of its fields. wrap: put around the file before
    it is decompressed. on_share: as in `read_file_records`. Raises DataError, StorageError.
    """
    if kind == "txt":
        yield from _read_txt(path, text_format.documents, bad, wrap)
        return
    name, empty = name_source(path), True
    field = text_format.text_field
    if kind == "hub":
        records: Iterable[Record] = read_hub_dataset(path)
    else:
        header = not text_format.no_header
        columns = [field] if on_value is None else None
        records = read_file_records(
            path,
            kind,
            header=header,
            columns=columns,
            what="text",
            bad=bad,
            wrap=wrap,
            on_share=on_share,
        )
    for record in records:
        empty = False
        if on_value is not None:
            on_value(record.value)
        try:
            text = _read_text(record, field)
        except DataError as error:
            if bad is None and record.header and field not in record.value:
                raise  # no record of the file has the column
            skip_or_raise(error, bad)
            continue
        if bad is not None:
            bad.good += 1
        yield from _cut([text], name, record.line)
    if empty and kind == "hub":  # of a file it has been said
        raise DataError(describe_empty(path, "text"))


def _read_txt(
    path: Path, documents: str, bad: BadRecords | None, wrap: Callable[[BinaryIO], BinaryIO]
) -> Iterator[Document]:
    def read(parts: Iterator[str], name: str) -> Iterator[Document]:
        if documents == "file":
            yield from _cut(parts, name, 1)
            return
        split = _split_lines if documents == "lines" else _split_paragraphs
        for line, text in split(parts, name):
            try:
                _require_characters(text, f"{name}:{line}")
            except DataError as error:
                skip_or_raise(error, bad)
                continue
            if bad is not None:
                bad.good += 1
            yield from _cut([text], name, line)

    yield from read_items(path, read, "text", has_records=documents != "file", bad=bad, wrap=wrap)


def _split_lines(parts: Iterator[str], name: str) -> Iterator[tuple[int, str]]:
    """Yield the lines that are not blank, without their ends, and their numbers."""
    for number, line in enumerate(split_lines(parts, name), 1):
        if not line.isspace():
            yield number, line.removesuffix("\n").removesuffix("\r")


def _split_paragraphs(parts: Iterator[str], name: str) -> Iterator[tuple[int, str]]:
    """Yield what stands between blank lines, and the number of its first line."""
    held: list[str] = []
    start, size = 1, 0
    for number, line in enumerate(split_lines(parts, name), 1):
        if not line.isspace():
            start, size = (start if held else number), size + len(line)
            require_short(size, f"{name}:{start}", "paragraph")
            held.append(line)
        elif held:
            yield start, "".join(held).removesuffix("\n").removesuffix("\r")
            held, size = [], 0
    if held:
        yield start, "".join(held).removesuffix("\n").removesuffix("\r")


def _cut(parts: Iterable[str], name: str, line: int) -> Iterator[Document]:
    """Cut one document into pieces, the last without `more`; none if it has no text."""
    previous = None
    for piece in split_text(parts):
        if previous is not None:
            yield Document(previous, name, line, more=True)
            line += previous.count("\n")
        previous = piece
    if previous is not None:
        yield Document(previous, name, line)


def _read_text(record: Record, field: str) -> str:
    text = value = record.value
    where = record.where
    if isinstance(value, dict):
        if field not in value:
            found = describe_missing_text(field, value, is_table=bool(record.header))
            raise DataError(f"{record.header or where}: {found}")
        text = value[field]
        where = f"{where}: field {field!r}"
    if not isinstance(text, str):
        wanted = "a string" if isinstance(value, dict) else "a string or an object"
        raise DataError(f"{where}: found {name_type(text)} where {wanted} is needed")
    _require_characters(text, where)
    return text


def _require_characters(text: str, where: str) -> None:
    """Refuse a text with halves of surrogate pairs. Raises DataError."""
    if found := describe_surrogate(text):
        raise DataError(f"{where}: {found}")

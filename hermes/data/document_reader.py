"""Reads documents from files and standard input in bounded memory; errors name the line.

Text is UTF-8 and kept as it is, line ends, spaces and control characters included; only a
byte-order mark at the start of a file is dropped.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hermes.data.files import (
    FORMATS,
    STANDARD_INPUT,
    Paths,
    describe_formats,
    expand_paths,
    read_items,
)
from hermes.data.records import READERS, Record
from hermes.errors import DataError
from hermes.formatting import describe_missing, name_type
from hermes.tokenizer.bytelevel import split_text

__all__ = ["Document", "read_documents"]


@dataclass(frozen=True)
class Document:
    """A document or a piece of a long one.

    line: where it begins, counted from 1. more: whether another piece of the same document follows.
    """

    text: str
    path: str
    line: int
    more: bool = False


def read_documents(
    paths: Paths, *, text_field: str = "text", file_format: str | None = None
) -> Iterator[Document]:
    """Yield the documents of files, folders and patterns in the order given; '-' is standard input.

    .txt: one document per file. .jsonl: one per line; .json: a list; each item a string, or an
    object with a `text_field`. .csv: one per row, with a header that has a `text_field`.
    file_format ('txt', ...) overrides the file names' endings; standard input is txt by default.
    Long documents come in pieces with `more` set, cut where that does not change tokens; empty ones
    are skipped. A .json file is read whole; the others need memory for one line or row.

    Raises DataError, at once for missing files, and StorageError for files that cannot be read.
    """
    if file_format not in (None, *FORMATS):
        raise DataError(f"format {file_format!r} is unknown; known are {', '.join(FORMATS)}")
    readers = [
        (path, _choose_reader(path, file_format, text_field)) for path in expand_paths(paths)
    ]
    return (document for path, read in readers for document in read_items(path, read, "text"))


_Reader = Callable[[Iterator[str], str], Iterator[Document]]
# Endings of files that are no text, and would be read as one by mistake.
BINARY = {
    *(".parquet", ".arrow", ".gz", ".zst", ".bz2", ".xz", ".zip", ".tar", ".bin", ".npy", ".npz"),
    *(".safetensors", ".pt", ".pth", ".pdf", ".docx", ".epub", ".png", ".jpg"),
}


def _choose_reader(path: Path, file_format: str | None, field: str) -> _Reader:
    if file_format is None:
        file_format = "txt" if path == STANDARD_INPUT else path.suffix[1:].lower()
    if file_format == "txt":
        return _read_txt
    if file_format not in READERS:
        if path.suffix.lower() in BINARY:
            raise DataError(
                f"{path}: unknown ending {path.suffix!r}; known are {describe_formats()}: "
                "rename it, or say by --format which format it has"
            )
        warnings.warn(
            f"{path}: unknown ending {path.suffix!r}, read as text; --format says otherwise"
        )
        return _read_txt
    records = READERS[file_format]

    def read(parts: Iterator[str], name: str) -> Iterator[Document]:
        for record in records(parts, name):
            yield from _cut([_read_text(record, field)], name, record.line)

    return read


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


def _read_txt(parts: Iterator[str], name: str) -> Iterator[Document]:
    yield from _cut(parts, name, 1)


def _read_text(record: Record, field: str) -> str:
    text = value = record.value
    where = record.where
    if isinstance(value, dict):
        if field not in value:
            advice = "name the one that holds text"
            found = describe_missing(field, value, advice, chosen=True)
            raise DataError(f"{record.header or where}: {found}")
        text = value[field]
        where = f"{where}: field {field!r}"
    if not isinstance(text, str):
        wanted = "a string" if isinstance(value, dict) else "a string or an object"
        raise DataError(f"{where}: found {name_type(text)} where {wanted} is needed")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: half of a surrogate pair, \\u{ord(text[error.start]):04x}, which is not "
                "a character; write the text as UTF-8"
            ) from None
    return text

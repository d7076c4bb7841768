"""Documents from files and standard input, in bounded memory, with errors that name a line.

Text is taken as it stands: line ends, spaces and control characters are kept; only a byte-order
mark at the start of a file is not text. Everything is UTF-8.
"""

import csv
import difflib
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes.data.bytelevel import pieces
from hermes.data.files import FORMATS, STANDARD_INPUT, Paths, decoded, endings, sources
from hermes.errors import DataError, StorageError

__all__ = ["Document", "documents"]

LONGEST_FIELD = 2**31 - 1  # of CSV, in characters; the module's own limit is 128 KiB


@dataclass(frozen=True)
class Document:
    """A document, or a piece of a long one. line: where it begins, from 1; more: it goes on."""

    text: str
    path: str
    line: int
    more: bool = False


def documents(
    paths: Paths, *, text_field: str = "text", file_format: str | None = None
) -> Iterator[Document]:
    """Yield the documents of files, folders and patterns in the order given; '-' is standard input.

    .txt: one document a file. .jsonl: one a line, .json: a list; of strings, or of objects with a
    `text_field`. .csv: one a row, with a header that has a `text_field`. file_format ('txt' ...)
    stands for every file's ending; standard input is txt without it. Long documents come in pieces
    with `more` set, cut where tokens do not change; empty ones are left out. A .json file is read
    whole, the others need memory for one line or row.

    Raises DataError at once for files that are missing, StorageError for those that cannot be read.
    """
    if file_format not in (None, *FORMATS):
        raise DataError(f"format {file_format!r} is unknown; known are {', '.join(FORMATS)}")
    readers = [(path, _reader(path, file_format)) for path in sources(paths)]
    return (document for path, read in readers for document in _read(path, read, text_field))


_Read = Callable[[Iterator[str], str, str], Iterator[Document]]


def _reader(path: Path, file_format: str | None) -> _Read:
    if file_format is None:
        file_format = "txt" if path == STANDARD_INPUT else path.suffix[1:].lower()
    if file_format not in _READERS:
        raise DataError(
            f"{path}: unknown ending {path.suffix!r}; known are {endings()}: rename it, or say "
            "which format it has"
        )
    return _READERS[file_format]


def _read(path: Path, read: _Read, field: str) -> Iterator[Document]:
    standard = path == STANDARD_INPUT
    name = "standard input" if standard else str(path)
    empty = True
    try:
        with nullcontext(sys.stdin.buffer) if standard else open(path, "rb") as file:
            for document in read(decoded(file, name), name, field):
                empty = False
                yield document
    except OSError as error:
        raise StorageError(f"cannot read {name}: {error.strerror}") from error
    if empty:
        raise DataError(f"{name}: empty, there is no text in it; leave it out or fill it")


def _lines(parts: Iterable[str]) -> Iterator[str]:
    """Lines with their ends, '\\n' alone or after '\\r'."""
    held: list[str] = []
    for part in parts:
        first, *rest = part.split("\n")
        held.append(first)
        for line in rest:
            yield "".join(held) + "\n"
            held = [line]
    if last := "".join(held):
        yield last


def _cut(parts: Iterable[str], name: str, line: int) -> Iterator[Document]:
    """One document in pieces, the last without `more`; nothing if it has no text."""
    held = None
    for piece in pieces(parts):
        if held is not None:
            yield Document(held, name, line, more=True)
            line += held.count("\n")
        held = piece
    if held is not None:
        yield Document(held, name, line)


def _txt(parts: Iterator[str], name: str, field: str) -> Iterator[Document]:
    yield from _cut(parts, name, 1)


def _jsonl(parts: Iterator[str], name: str, field: str) -> Iterator[Document]:
    for number, line in enumerate(_lines(parts), 1):
        if not line.isspace():
            value = _parsed(line, name, number, "one JSON value a line is needed")
            yield from _cut([_text(value, field, f"{name}:{number}")], name, number)


def _json(parts: Iterator[str], name: str, field: str) -> Iterator[Document]:
    whole = "".join(parts)
    if not whole or whole.isspace():
        return
    hint = "one list is needed; a file of one object a line is called .jsonl"
    value = _parsed(whole, name, 1, hint)
    if not isinstance(value, list):
        raise DataError(
            f"{name}: found {_kind(value)} where a list of strings or objects is needed"
        )
    for number, item in enumerate(value):
        yield from _cut([_text(item, field, f"{name}[{number}]")], name, 1)


def _csv(parts: Iterator[str], name: str, field: str) -> Iterator[Document]:
    rows = csv.reader(_lines(parts), strict=True)
    header: list[str] = []
    while True:
        line = rows.line_num + 1
        allowed = csv.field_size_limit(LONGEST_FIELD)  # one for the process, so put back at once
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise DataError(f'{name}:{line}: not CSV ({error}); quote fields with ""') from None
        finally:
            csv.field_size_limit(allowed)
        if row is None:
            return
        if not header:
            header = row
            if header and header.count(field) != 1:
                raise DataError(f"{name}:{line}: {_no_field(field, header)}")
        elif row:
            if len(row) != len(header):
                raise DataError(
                    f"{name}:{line}: {len(row)} fields where the header has {len(header)}; quote "
                    "fields that have commas or line ends in them"
                )
            yield from _cut([row[header.index(field)]], name, line)


_READERS: dict[str, _Read] = {"csv": _csv, "json": _json, "jsonl": _jsonl, "txt": _txt}


def _parsed(text: str, name: str, line: int, hint: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f"{name}:{line + error.lineno - 1}:{error.colno}"
        raise DataError(f"{at}: not JSON ({error.msg}); {hint}") from None
    except (ValueError, RecursionError) as error:  # a number too long, brackets too deep
        raise DataError(f"{name}:{line}: JSON that cannot be read ({error}); {hint}") from None


def _text(value: Any, field: str, where: str) -> str:
    text = value
    if isinstance(value, dict):
        if field not in value:
            raise DataError(f"{where}: {_no_field(field, list(value))}")
        text = value[field]
        where = f"{where}: field {field!r}"
    if not isinstance(text, str):
        wanted = "a string" if isinstance(value, dict) else "a string or an object"
        raise DataError(f"{where}: found {_kind(text)} where {wanted} is needed")
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: half of a surrogate pair, \\u{ord(text[error.start]):04x}, which is no "
                "character; write the text as UTF-8"
            ) from None
    return text


def _kind(value: Any) -> str:
    kinds = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    return kinds.get(type(value), repr(value)[:40])


def _no_field(field: str, found: list[str]) -> str:
    if field in found:
        return f"more than one field {field!r}; keep one"
    shown = ", ".join(repr(name[:40]) for name in found[:8]) + (", ..." if len(found) > 8 else "")
    folded = {name.lower(): name for name in found}
    nearest = difflib.get_close_matches(field.lower(), folded, n=1)
    advice = f"did you mean {folded[nearest[0]]!r}?" if nearest else "name the one that holds text"
    return f"no text field {field!r}, only {shown or 'none'}; {advice}"

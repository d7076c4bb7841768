"""Records from files: one JSON value or one row of CSV each, and the place each stands at."""

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes.data.files import STANDARD_INPUT, Paths, decoded, sources
from hermes.errors import DataError, StorageError, nearest

__all__ = ["Record", "kind", "lines", "missing", "parsed", "records"]

LONGEST_FIELD = 2**31 - 1  # of CSV, in characters; the module's own limit is 128 KiB
FORMATS = ("csv", "json", "jsonl")


@dataclass(frozen=True)
class Record:
    """A value, and where it stands: `file:line`, or `file[number]` in a JSON list."""

    value: Any
    where: str


def records(paths: Paths, *, file_format: str | None = None) -> Iterator[Record]:
    """Yield the records of files, folders and patterns in the order given; '-' is standard input.

    .jsonl: one a line; .json: the items of a list; .csv: a row each, as an object of strings under
    the header's names. Standard input is jsonl unless file_format says otherwise. Raises DataError
    for what is missing, empty or not of its format; StorageError for what cannot be read.
    """
    if file_format not in (None, *FORMATS):
        raise DataError(f"format {file_format!r} is unknown; known are {', '.join(FORMATS)}")
    readers = [(path, _reader(path, file_format)) for path in sources(paths)]
    return (record for path, read in readers for record in _read(path, read))


_Read = Callable[[Iterator[str], str], Iterator[Record]]


def _reader(path: Path, file_format: str | None) -> _Read:
    standard = path == STANDARD_INPUT
    chosen = file_format or ("jsonl" if standard else path.suffix[1:].lower())
    if chosen not in _READERS:
        raise DataError(
            f"{path}: unknown ending {path.suffix!r}; records are read from "
            f"{', '.join('.' + name for name in FORMATS)}"
        )
    return _READERS[chosen]


def _read(path: Path, read: _Read) -> Iterator[Record]:
    standard = path == STANDARD_INPUT
    name = "standard input" if standard else str(path)
    empty = True
    try:
        with nullcontext(sys.stdin.buffer) if standard else open(path, "rb") as file:
            for record in read(decoded(file, name), name):
                empty = False
                yield record
    except OSError as error:
        raise StorageError(f"cannot read {name}: {error.strerror}") from error
    if empty:
        raise DataError(f"{name}: empty, there is no record in it; leave it out or fill it")


def lines(parts: Iterable[str]) -> Iterator[str]:
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


def _jsonl(parts: Iterator[str], name: str) -> Iterator[Record]:
    for number, line in enumerate(lines(parts), 1):
        if not line.isspace():
            value = parsed(line, name, number, "one JSON value a line is needed")
            yield Record(value, f"{name}:{number}")


def _json(parts: Iterator[str], name: str) -> Iterator[Record]:
    whole = "".join(parts)
    if not whole or whole.isspace():
        return
    hint = "one list is needed; a file of one object a line is called .jsonl"
    value = parsed(whole, name, 1, hint)
    if not isinstance(value, list):
        raise DataError(f"{name}: found {kind(value)} where a list is needed")
    for number, item in enumerate(value):
        yield Record(item, f"{name}[{number}]")


def _csv(parts: Iterator[str], name: str) -> Iterator[Record]:
    rows = csv.reader(lines(parts), strict=True)
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
            if twice := [field for field in header if header.count(field) > 1]:
                raise DataError(f"{name}:{line}: more than one field {twice[0]!r}; keep one")
        elif row:
            if len(row) != len(header):
                raise DataError(
                    f"{name}:{line}: {len(row)} fields where the header has {len(header)}; quote "
                    "fields that have commas or line ends in them"
                )
            yield Record(dict(zip(header, row, strict=True)), f"{name}:{line}")


_READERS: dict[str, _Read] = {"csv": _csv, "json": _json, "jsonl": _jsonl}


def parsed(text: str, name: str, line: int, hint: str) -> Any:
    """The JSON value of a text that begins at `line` of a file. Raises DataError."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        at = f"{name}:{line + error.lineno - 1}:{error.colno}"
        raise DataError(f"{at}: not JSON ({error.msg}); {hint}") from None
    except (ValueError, RecursionError) as error:  # a number too long, brackets too deep
        raise DataError(f"{name}:{line}: JSON that cannot be read ({error}); {hint}") from None


def kind(value: Any) -> str:
    """What a JSON value is, in words."""
    kinds = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    return kinds.get(type(value), repr(value)[:40])


def missing(field: str, found: Iterable[str], advice: str = "") -> str:
    """The sentence about a field that is not there: the fields found, and the nearest name."""
    names = [str(name) for name in found]
    shown = ", ".join(repr(name[:40]) for name in names[:8]) + (", ..." * (len(names) > 8))
    folded = {name.lower(): name for name in names}
    hint = nearest(field.lower(), folded)
    if field.lower() in folded:
        hint = f"; did you mean {folded[field.lower()]!r}?"
    end = hint or (f"; {advice}" if advice else "")
    return f"no field {field!r}, only {shown or 'none'}{end}"

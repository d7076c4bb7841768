"""Reads records from files: JSON values or rows of CSV, each with its place for error messages."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes.data.files import STANDARD_INPUT, Paths, expand_paths, read_items, split_lines
from hermes.errors import DataError
from hermes.formatting import name_type

__all__ = ["READERS", "Record", "read_records"]

LONGEST_FIELD = 2**31 - 1  # of CSV, in characters; the module's own limit is 128 KiB
FORMATS = ("csv", "json", "jsonl")


@dataclass(frozen=True)
class Record:
    """A value and its place: `file:line`, or `file[number]` in a JSON list.

    line: where it begins, from 1; always 1 in a JSON list. header: the place of a CSV's header,
    which names its fields.
    """

    value: Any
    where: str
    line: int = 1
    header: str = ""


def read_records(paths: Paths, *, file_format: str | None = None) -> Iterator[Record]:
    """Yield the records of files, folders and patterns in the order given; '-' is standard input.

    .jsonl: one per line. .json: the items of a list. .csv: one per row, an object of strings under
    the header's names. file_format overrides the file names' endings; standard input is jsonl by
    default. Raises DataError for files that are missing, empty or malformed, StorageError for files
    that cannot be read.
    """
    if file_format not in (None, *FORMATS):
        raise DataError(f"format {file_format!r} is unknown; known are {', '.join(FORMATS)}")
    readers = [(path, _choose_reader(path, file_format)) for path in expand_paths(paths)]
    return (record for path, read in readers for record in read_items(path, read, "record"))


_Reader = Callable[[Iterator[str], str], Iterator[Record]]


def _choose_reader(path: Path, file_format: str | None) -> _Reader:
    is_stdin = path == STANDARD_INPUT
    chosen = file_format or ("jsonl" if is_stdin else path.suffix[1:].lower())
    if chosen not in READERS:
        raise DataError(
            f"{path}: unknown ending {path.suffix!r}; records are read from "
            f"{', '.join('.' + name for name in FORMATS)}; rename it, or say by --format which "
            "format it has"
        )
    return READERS[chosen]


def _read_jsonl(parts: Iterator[str], name: str) -> Iterator[Record]:
    for number, line in enumerate(split_lines(parts), 1):
        if not line.isspace():
            value = _parse_json(line, name, number, "one JSON value a line is needed")
            yield Record(value, f"{name}:{number}", number)


def _read_json(parts: Iterator[str], name: str) -> Iterator[Record]:
    whole = "".join(parts)
    if not whole or whole.isspace():
        return
    hint = "one list is needed; a file of one object a line is called .jsonl"
    value = _parse_json(whole, name, 1, hint)
    if not isinstance(value, list):
        raise DataError(f"{name}: found {name_type(value)} where a list is needed")
    for number, item in enumerate(value):
        yield Record(item, f"{name}[{number}]")


def _read_csv(parts: Iterator[str], name: str) -> Iterator[Record]:
    rows = csv.reader(split_lines(parts), strict=True)
    header: list[str] = []
    at = name
    while True:
        line = rows.line_num + 1
        # The limit is global to the process, so it is restored at once.
        allowed = csv.field_size_limit(LONGEST_FIELD)
        try:
            row = next(rows, None)
        except csv.Error as error:
            raise DataError(f'{name}:{line}: not CSV ({error}); quote fields with ""') from None
        finally:
            csv.field_size_limit(allowed)
        if row is None:
            return
        if not header:
            header, at = row, f"{name}:{line}"
            if twice := [field for field, count in Counter(header).items() if count > 1]:
                raise DataError(f"{at}: more than one field {twice[0]!r}; keep one")
        elif row:
            if len(row) != len(header):
                raise DataError(
                    f"{name}:{line}: {len(row)} fields where the header has {len(header)}; quote "
                    "fields that have commas or line ends in them"
                )
            yield Record(dict(zip(header, row, strict=True)), f"{name}:{line}", line, at)


READERS: dict[str, _Reader] = {"csv": _read_csv, "json": _read_json, "jsonl": _read_jsonl}


def _parse_json(text: str, name: str, line: int, hint: str) -> Any:
    """Parse a JSON text that begins at `line` of a file. Raises DataError."""
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        # For a text that breaks off, error.pos is after its line end: report the last character.
        before = text[: min(error.pos, len(text.rstrip()))]
        row, column = before.count("\n"), len(before) - before.rfind("\n")
        at = f"{name}:{line + row}:{column}"
        raise DataError(f"{at}: not JSON ({error.msg}); {hint}") from None
    except (ValueError, RecursionError) as error:  # a number too long, nesting too deep
        raise DataError(f"{name}:{line}: JSON that cannot be read ({error}); {hint}") from None

"""Reads records from files: JSON values or rows of CSV, each with its place for error messages."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from hermes.data import files
from hermes.data.bad_records import BadRecordError, BadRecords, skip_or_raise
from hermes.data.file_names import expand_paths
from hermes.data.files import (
    STANDARD_INPUT,
    Paths,
    describe_compressions,
    find_format,
    name_source,
    read_items,
    split_lines,
)
from hermes.data.json_list import read_json_list
from hermes.data.parquet import read_rows
from hermes.errors import DataError
from hermes.formatting import format_count
from hermes.storage.plain_json import DuplicateKeyError, explain_json_error, load_json

__all__ = ["Record", "choose_record_format", "parse_records", "read_file_records", "read_records"]

Parsed = TypeVar("Parsed")

FORMATS = ("csv", "json", "jsonl", "parquet", "tsv")


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


def read_records(
    paths: Paths, *, file_format: str | None = None, bad: BadRecords | None = None
) -> Iterator[Record]:
    """Yield the records of files, folders and patterns in the order given; '-' is standard input.

    .jsonl: one per line. .json: the items of a list. .csv, .tsv: one per row, an object of strings
    under the header's names. .parquet: one per row. Each may be compressed (.gz, .xz, .zst).
    file_format overrides the file names' endings; standard input is jsonl by default. bad: counts
    bad records, which are left out; None to stop at the first. Raises DataError for files that are
    missing, empty or malformed, StorageError for files that cannot be read.
    """
    if file_format not in (None, *FORMATS):
        raise DataError(f"format {file_format!r} is unknown; known are {', '.join(FORMATS)}")
    chosen = [(path, choose_record_format(path, file_format)) for path in expand_paths(paths)]
    return (record for path, kind in chosen for record in read_file_records(path, kind, bad=bad))


def parse_records(
    records: Iterable[Record], parse: Callable[[Record], Parsed], bad: BadRecords | None
) -> Iterator[Parsed]:
    """Parse records to train on. bad: counts those that cannot be parsed; None to stop at one.

    Raises DataError.
    """
    for record in records:
        try:
            parsed = parse(record)
        except DataError as error:
            skip_or_raise(error, bad)
            continue
        if bad is not None:
            bad.good += 1
        yield parsed
    if bad is not None:
        bad.check()


def choose_record_format(path: Path, file_format: str | None) -> str:
    """The format of a file: what the user says, or its ending. Raises DataError for no records."""
    is_stdin = path == STANDARD_INPUT
    chosen = file_format or ("jsonl" if is_stdin else find_format(path))
    if chosen not in FORMATS:
        raise DataError(
            f"{name_source(path)}: unknown ending {path.suffix!r}; records are read from "
            f"{', '.join('.' + name for name in FORMATS)}, also with "
            f"{describe_compressions()} behind it; rename it, or say by --format which format it "
            "has"
        )
    return chosen


def read_file_records(
    path: Path,
    file_format: str,
    *,
    header: bool = True,
    columns: Sequence[str] | None = None,
    what: str = "record",
    bad: BadRecords | None = None,
    wrap: Callable[[BinaryIO], BinaryIO] = lambda file: file,
    on_share: Callable[[float], None] = lambda share: None,
) -> Iterator[Record]:
    """Yield the records of one file.

    header: whether a CSV or TSV has one; else a row is the string of its cells with spaces between.
    columns: of Parquet, which to read; None for all. what: is missing in an empty file. bad: counts
    bad records, which are left out; None to stop at the first. wrap: as in `open_source`.
    on_share: of Parquet, told which share of it is read. Raises DataError, StorageError.
    """
    # Where the name says otherwise, the format was given.
    is_given = path != STANDARD_INPUT and find_format(path) != file_format
    given = f"; --format says {file_format}" if is_given else ""
    if file_format == "parquet":
        name = name_source(path)
        for value, number in _append_to_errors(read_rows(path, columns, on_share), given):
            yield Record(value, f"{name}[{number}]", number + 1)
        return

    def read(parts: Iterator[str], name: str) -> Iterator[Record]:
        match file_format:
            case "jsonl":
                return _read_jsonl(parts, name, bad, given)
            case "json":
                return _read_json(parts, name, given)
        rows = _read_rows(parts, name, "\t" if file_format == "tsv" else ",")
        cells = _name_cells(rows, name, bad) if header else _join_cells(rows, name)
        return _append_to_errors(cells, given)

    yield from read_items(path, read, what, has_records=True, bad=bad, wrap=wrap)


def _read_jsonl(
    parts: Iterator[str], name: str, bad: BadRecords | None, given: str
) -> Iterator[Record]:
    for number, line in enumerate(split_lines(parts, name), 1):
        if line.isspace():
            continue
        try:
            value = _parse_json(line, name, number, f"one JSON value a line is needed{given}")
        except DataError as error:
            skip_or_raise(error, bad)
        else:
            yield Record(value, f"{name}:{number}", number)


def _append_to_errors(items: Iterator[Any], words: str) -> Iterator[Any]:
    """The same items; a DataError on the way has the words behind its own."""
    try:
        yield from items
    except BadRecordError as error:
        raise BadRecordError(f"{error.reason}{words}") from error
    except DataError as error:
        raise DataError(f"{error}{words}") from error


def _read_json(parts: Iterator[str], name: str, given: str) -> Iterator[Record]:
    for number, item in enumerate(_append_to_errors(read_json_list(parts, name), given)):
        yield Record(item, f"{name}[{number}]", number + 1)


def _read_rows(parts: Iterator[str], name: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows that are not empty, each with the line on which it begins."""
    rows = csv.reader(split_lines(parts, name), strict=True, delimiter=delimiter)
    while True:
        line = rows.line_num + 1
        # The module's own limit is 128 KiB; it is global to the process, so it is restored at once.
        allowed = csv.field_size_limit(files.LONGEST_LINE)
        try:
            row = next(rows, None)
        except csv.Error as error:
            kind = "TSV" if delimiter == "\t" else "CSV"
            if str(error).startswith("new-line"):
                raise DataError(
                    f"{name}:{line}: not {kind} (a line ends with \\r alone); end lines with \\n"
                ) from None
            raise DataError(f'{name}:{line}: not {kind} ({error}); quote fields with ""') from None
        finally:
            csv.field_size_limit(allowed)
        if row is None:
            return
        if row:
            yield line, row


def _name_cells(
    rows: Iterator[tuple[int, list[str]]], name: str, bad: BadRecords | None
) -> Iterator[Record]:
    """Yield each row as an object under the names of the first one."""
    line, names = next(rows, (1, []))
    at = f"{name}:{line}"
    if twice := [field for field, count in Counter(names).items() if count > 1]:
        raise DataError(f"{at}: more than one field {twice[0]!r}; keep one")
    for line, row in rows:
        if len(row) == len(names):
            yield Record(dict(zip(names, row, strict=True)), f"{name}:{line}", line, at)
            continue
        error = DataError(
            f"{name}:{line}: {format_count(len(row), 'fields')} where the header has {len(names)}; "
            "quote fields that have commas or line ends in them"
        )
        skip_or_raise(error, bad)


def _join_cells(rows: Iterator[tuple[int, list[str]]], name: str) -> Iterator[Record]:
    for line, row in rows:
        yield Record(" ".join(row), f"{name}:{line}", line)


def _parse_json(text: str, name: str, line: int, hint: str) -> Any:
    """Parse a JSON text that begins at `line` of a file. Raises DataError."""
    try:
        return load_json(text)
    except json.JSONDecodeError as error:
        # For a text that breaks off, error.pos is after its line end: report the last character.
        before = text[: min(error.pos, len(text.rstrip()))]
        row, column = before.count("\n"), len(before) - before.rfind("\n")
        at = f"{name}:{line + row}:{column}"
        raise DataError(f"{at}: not JSON ({explain_json_error(error)}); {hint}") from None
    except DuplicateKeyError as error:
        raise DataError(f"{name}:{line}: {error}; keep one") from None
    except ValueError as error:  # NaN, a number too long, nesting too deep
        raise DataError(f"{name}:{line}: JSON that cannot be read ({error}); {hint}") from None

"""Finds input files by name, folder or pattern, and decodes them."""

import codecs
import glob
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, BinaryIO, TypeVar

from hermes.data.bad_records import BadRecordError, BadRecords
from hermes.data.compression import COMPRESSIONS, open_decompressed, strip_compression
from hermes.data.prepared_folder import is_prepared
from hermes.data.remote import (
    is_remote,
    list_remote,
    open_remote,
    refuse_secrets,
    restore_address,
)
from hermes.errors import DataError, StorageError
from hermes.formatting import format_count

__all__ = [
    "FORMATS",
    "STANDARD_INPUT",
    "Paths",
    "decode_file",
    "describe_compressions",
    "describe_empty",
    "describe_formats",
    "describe_textless",
    "expand_paths",
    "find_format",
    "name_source",
    "open_source",
    "read_items",
    "require_present",
    "require_short",
    "split_lines",
    "spool",
]

FORMATS = ("csv", "json", "jsonl", "parquet", "tsv", "txt")
STANDARD_INPUT = Path("-")
SPOOLED = "standard-input"  # the stem of a temporary file that has what came from there
BLOCK = 1 << 20  # bytes
LONGEST_LINE = 1 << 28  # characters that are held of one line, paragraph, cell or item
LONGEST_NAME = 4096  # characters of a path, at most, on Linux
LONGEST_PART = 255  # bytes of a name between slashes, at most
MOST_WORDS = 5  # of such a name that is not there and is yet taken for one

T = TypeVar("T")
Paths = str | Path | Iterable[str | Path]


def find_format(path: Path) -> str | None:
    """The format that a file's ending says, before that of a compression; None if unknown."""
    ending = Path(strip_compression(path.name)[0]).suffix[1:].lower()
    return ending if ending in FORMATS else None


def expand_paths(paths: Paths) -> list[Path]:
    """List the files that names, folders and patterns stand for; '-' stays as it is.

    So does an address such as s3://BUCKET/FILE, whose pattern stands for the files it matches.

    A folder stands for all files in and below it with a known ending, a pattern for the files it
    matches, both sorted by name; names that begin with a dot are hidden: AppleDouble's, say, or an
    editor's copies. Raises DataError where one stands for no file, or is a folder of prepared
    tokens.
    """
    named = [paths] if isinstance(paths, str | Path) else list(paths)
    if not named:
        raise DataError(
            "no files of text are given; give a file, a folder, or - for standard input"
        )
    try:
        return [file for name in named for file in _expand_path(_check_name(name))]
    except OSError as error:
        raise StorageError(f"cannot look at {error.filename}: {error.strerror}") from error


def require_present(names: Iterable[str | Path]) -> None:
    """Refuse names of files that are not there, before anything is loaded that takes long.

    Opens nothing; addresses, folders and patterns are left to `expand_paths`. Raises DataError.
    """
    for name in names:
        path = _check_name(name)
        is_file = path != STANDARD_INPUT and not is_remote(path) and not glob.has_magic(str(path))
        if is_file and not path.exists():
            raise DataError(_describe_missing(path))


def _describe_missing(path: Path) -> str:
    return f"{path}: no such file; check the name"


def _check_name(name: object) -> Path:
    """A name as a path. Raises DataError for what names no file, such as a text itself."""
    if not isinstance(name, str | os.PathLike):
        raise DataError(
            f"data is a list of {type(name).__name__}, not of names of files; write the text to a "
            "file, and give its name"
        )
    text = os.fspath(name)
    if "\n" in text or len(text) > LONGEST_NAME or _is_sentence(text):
        raise DataError(
            f"data is a text of {len(text):,} characters, not the name of a file; write it to a "
            "file, and give its name"
        )
    refuse_secrets(text)
    return Path(name)


def _is_sentence(text: str) -> bool:
    """Whether a name is a sentence instead, which may be private and is not to be repeated.

    No file system takes a part of more than 255 bytes, and what has many words and names no file
    is not likely to be the name of one.
    """
    path = Path(text)
    if is_remote(path):
        return False
    if any(len(os.fsencode(part)) > LONGEST_PART for part in path.parts):
        return True
    has_many_words = any(len(part.split()) > MOST_WORDS for part in path.parts)
    return has_many_words and not path.exists() and not glob.glob(text, recursive=True)


def _expand_path(path: Path) -> list[Path]:
    if is_remote(path):
        return list_remote(path)
    if path == STANDARD_INPUT or path.is_file() or path.is_fifo() or path.is_char_device():
        return [path]
    if path.is_dir():
        if is_prepared(path):
            raise DataError(
                f"{path} holds prepared tokens, where text is needed; name the text that it was "
                "made from (train and eval take the folder alone, hermes data verify checks it)"
            )
        found = sorted(
            f for f in path.rglob("*") if find_format(f) and f.is_file() and not _is_hidden(f, path)
        )
        if not found:
            raise DataError(
                f"{path}: the folder has no {describe_formats()} file in it; give one that has"
            )
        return found
    if glob.has_magic(str(path)):
        if matched := [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]:
            return [file for match in matched for file in _expand_path(match)]
        raise DataError(f"{path}: the pattern matches no file; check the folder and the ending")
    raise DataError(_describe_missing(path))


def _is_hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)


def spool(stream: BinaryIO, directory: str | Path, *, file_format: str = "txt") -> Path:
    """Copy a stream that can be read only once to a file in a temporary folder.

    The file is not synced: it is of use to this command only. Raises StorageError.
    """
    path = Path(directory) / f"{SPOOLED}.{file_format}"
    try:
        with open(path, "wb") as file:
            shutil.copyfileobj(stream, file)
    except OSError as error:
        raise StorageError(f"cannot spool standard input to {path}: {error.strerror}") from error
    return path


def describe_formats() -> str:
    """List the endings of files that can be read: '.csv, .json, ...'."""
    return ", ".join(f".{name}" for name in FORMATS)


def describe_compressions() -> str:
    """List the endings of compressed files: '.gz, .xz or .zst'."""
    *most, last = (f".{name}" for name in COMPRESSIONS)
    return f"{', '.join(most)} or {last}"


def name_source(path: Path) -> str:
    """The name of a source in messages."""
    if is_remote(path):
        return restore_address(path)[1]
    is_spooled = path.stem == SPOOLED and path.parent.name.startswith("hermes-")
    return "standard input" if path == STANDARD_INPUT or is_spooled else str(path)


def _open_file(path: Path) -> AbstractContextManager[BinaryIO]:
    if path == STANDARD_INPUT:
        return nullcontext(sys.stdin.buffer)
    return open_remote(path) if is_remote(path) else open(path, "rb")


@contextmanager
def open_source(
    path: Path, wrap: Callable[[BinaryIO], BinaryIO] = lambda file: file
) -> Iterator[IO[bytes]]:
    """Yield a source's decompressed bytes. wrap: put around the file before it is decompressed.

    Raises DataError for damaged contents, StorageError for files that cannot be read, and
    HermesError where a library is missing.
    """
    name = name_source(path)
    try:
        with _open_file(path) as file, open_decompressed(wrap(file), name) as plain:
            yield plain
    except OSError as error:
        raise StorageError(f"cannot read {name}: {error.strerror or error}") from error


def decode_file(
    file: IO[bytes], name: str, *, escape: bool = False, has_records: bool = False
) -> Iterator[str]:
    """Yield a file's text in blocks of whole characters. Raises DataError where it is not UTF-8.

    escape: bytes that are not UTF-8 become lone surrogates instead (PEP 383), for a reader that
    leaves out the records that have some. has_records: the error is a BadRecordError.
    """
    decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape" if escape else "strict")
    done, line, started = 0, 1, False
    while True:
        block = file.read(BLOCK)
        incomplete = len(decoder.getstate()[0])
        try:
            text = decoder.decode(block, final=not block)
        except UnicodeDecodeError as error:
            line += error.object[: error.start].count(b"\n")
            reason = (
                f"{name}:{line}: not UTF-8 at byte {done - incomplete + error.start} "
                f"(0x{error.object[error.start]:02x}); convert it to UTF-8"
            )
            raise (BadRecordError if has_records else DataError)(reason) from None
        done += len(block)
        line += text.count("\n")
        if text:
            yield text if started else text.removeprefix("\ufeff")
            started = True
        if not block:
            return


def split_lines(parts: Iterable[str], name: str) -> Iterator[str]:
    """Yield lines with their line ends, which are '\\n' or '\\r\\n'.

    Raises DataError, with the file's name, for a line that is too long to be held.
    """
    unfinished: list[str] = []
    number, size = 1, 0
    for part in parts:
        first, *rest = part.split("\n")
        unfinished.append(first)
        size += len(first)
        require_short(size, f"{name}:{number}", "line")
        for line in rest:
            yield "".join(unfinished) + "\n"
            unfinished, size = [line], len(line)
        number += len(rest)
    if last := "".join(unfinished):
        yield last


def require_short(size: int, where: str, what: str) -> None:
    """Refuse to hold more of one line, paragraph or item. Raises DataError."""
    if size > LONGEST_LINE:
        raise DataError(
            f"{where}: a {what} of more than {LONGEST_LINE:,} characters, which are held as a "
            "whole; give shorter ones, or a document as long as that as a .txt of its own"
        )


def read_items(
    path: Path,
    read: Callable[[Iterator[str], str], Iterator[T]],
    what: str,
    *,
    has_records: bool = False,
    bad: BadRecords | None = None,
    wrap: Callable[[BinaryIO], BinaryIO] = lambda file: file,
) -> Iterator[T]:
    """Yield what `read` makes of a file's text and name. Raises DataError where the file is empty.

    has_records: whether the text is records, of which one whose bytes are not UTF-8 can be left
    out: where bad ones are counted, `read` gets it with lone surrogates. bad: counts bad records;
    None to stop at the first. wrap: as in `open_source`.
    """
    name, empty = name_source(path), True
    before = 0 if bad is None else bad.bad
    escape = has_records and bad is not None
    with open_source(path, wrap) as file:
        parts = decode_file(file, name, escape=escape, has_records=has_records)
        for item in read(parts, name):
            empty = False
            yield item
    if empty and (bad is None or bad.bad == before):
        raise DataError(describe_empty(path, what))


def describe_empty(path: Path, what: str) -> str:
    """The sentence about a source with nothing in it."""
    name = name_source(path)
    is_stdin = name == name_source(STANDARD_INPUT)
    advice = "pipe some in, or name a file" if is_stdin else "leave it out or fill it"
    return f"{name}: empty, there is no {what} in it; {advice}"


def describe_textless(names: Sequence[str]) -> str:
    """The sentence about sources that have records, and no text in any."""
    more = f" and {format_count(len(names) - 1, 'more sources')}" if len(names) > 1 else ""
    return f"{names[0]}{more}: no record has text in it; give data that has some"

"""Opens input files and decodes them."""

import codecs
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import IO, BinaryIO, TypeVar

from hermes.data.bad_records import BadRecordError, BadRecords
from hermes.data.compression import COMPRESSIONS, open_decompressed, strip_compression
from hermes.data.remote import is_remote, open_remote, restore_address
from hermes.errors import DataError, StorageError, explain_os_error
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
    "find_format",
    "name_source",
    "open_source",
    "read_items",
    "require_short",
    "split_lines",
    "spool",
]

FORMATS = ("csv", "json", "jsonl", "parquet", "tsv", "txt")
STANDARD_INPUT = Path("-")
SPOOLED = "standard-input"  # the stem of a temporary file that has what came from there
BLOCK = 1 << 20  # bytes
LONGEST_LINE = 1 << 28  # characters that are held of one line, paragraph, cell or item
# By their first bytes: other encodings that a file may have; the longer ones first.
MARKS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
COMPRESSED = {b"\x1f\x8b": "gz", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zst"}
LOOKED_AT = 64  # bytes by which UTF-16 without a mark is known

T = TypeVar("T")
Paths = str | Path | Iterable[str | Path]


def find_format(path: Path) -> str | None:
    """The format that a file's ending says, before that of a compression; None if unknown."""
    ending = Path(strip_compression(path.name)[0]).suffix[1:].lower()
    return ending if ending in FORMATS else None


def spool(stream: BinaryIO, directory: str | Path, *, file_format: str = "txt") -> Path:
    """Copy a stream that can be read only once to a file in a temporary folder.

    The file is not synced: it is of use to this command only. Raises StorageError.
    """
    path = Path(directory) / f"{SPOOLED}.{file_format}"
    try:
        with open(path, "wb") as file:
            shutil.copyfileobj(stream, file)
    except OSError as error:
        raise StorageError(
            f"cannot spool standard input to {path}: {explain_os_error(error)}"
        ) from error
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
        raise StorageError(f"cannot read {name}: {explain_os_error(error)}") from error


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
        if not done:
            _require_utf_8(block, name)
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


def _require_utf_8(start: bytes, name: str) -> None:
    """Refuse a file of which every record would be misread. start: its first bytes.

    Every second byte of UTF-16 is 0 in a text of ASCII alone. Raises DataError.
    """
    if packed := next((COMPRESSED[mark] for mark in COMPRESSED if start.startswith(mark)), ""):
        raise DataError(
            f"{name}: compressed, which its name does not say; decompress it, or put .{packed} "
            "behind the name"
        )
    found = next((MARKS[mark] for mark in MARKS if start.startswith(mark)), "")
    first = start[: min(LOOKED_AT, len(start) // 2 * 2)]
    if len(first) >= 8 and {any(first[::2]), any(first[1::2])} == {True, False}:
        found = found or "UTF-16"
    if found:
        raise DataError(
            f"{name}: {found}, where UTF-8 is needed; convert it, as in iconv -f {found} -t UTF-8"
        )


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

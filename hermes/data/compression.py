"""Opens files that may be compressed, by their names' last ending: .gz, .xz and .zst.

Every way in which a compressed file can be damaged is a DataError that names the file; a file cut
short is never taken for a whole one.
"""

import gzip
import io
import lzma
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import PurePath
from typing import IO, Any, BinaryIO, cast

from hermes.errors import DataError, HermesError

__all__ = ["COMPRESSIONS", "open_decompressed", "strip_compression"]

COMPRESSIONS = ("gz", "xz", "zst")
BLOCK = 1 << 20
# Bytes that a frame of Zstandard may look back on, which are held: as many as `zstd --long=31`
# writes, since large collections of text are published so; the library's own limit is 1 << 27.
LONGEST_WINDOW = 1 << 31


def strip_compression(name: str) -> tuple[str, str]:
    """Split a file's name into the name of its contents and its compression, '' for none."""
    ending = PurePath(name).suffix[1:].lower()
    return (name[: -len(ending) - 1], ending) if ending in COMPRESSIONS else (name, "")


@contextmanager
def open_decompressed(
    file: BinaryIO, name: str, compression: str | None = None
) -> Iterator[IO[bytes]]:
    """Yield the contents of an open file, decompressed as its name or `compression` says.

    Raises DataError for damaged contents, also from reads inside the block, and HermesError where
    a library is missing.
    """
    kind = strip_compression(name)[1] if compression is None else compression
    if not kind:
        yield file
        return
    try:
        if kind == "gz":
            with gzip.GzipFile(fileobj=file, mode="rb") as plain:
                yield cast(IO[bytes], plain)
        elif kind == "xz":
            with lzma.LZMAFile(file) as plain_xz:
                yield cast(IO[bytes], plain_xz)
        else:
            yield io.BufferedReader(_ZstdReader(file), BLOCK)
    except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile, _Damage) as error:
        raise DataError(
            f"{name}: not a whole .{kind} file ({_describe(error)}); copy or compress it again"
        ) from None


def _describe(error: BaseException) -> str:
    reason = str(error) or type(error).__name__
    return reason[:1].lower() + reason[1:].rstrip(".")


class _Damage(Exception):
    """Zstandard data that is damaged or cut short."""


class _ZstdReader(io.RawIOBase):
    """The contents of a file of one or several Zstandard frames, each of which must be whole."""

    def __init__(self, file: BinaryIO):
        try:
            import zstandard
        except ModuleNotFoundError:
            raise HermesError(
                "reading .zst needs zstandard; pip install 'hermes-llm[zstd]'"
            ) from None
        self._library: Any = zstandard
        self._file = file
        self._frame: Any = None
        self._compressed = b""
        self._plain = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._plain:
            if not self._read_more():
                return 0
        count = min(len(buffer), len(self._plain))
        buffer[:count], self._plain = self._plain[:count], self._plain[count:]
        return count

    def _read_more(self) -> bool:
        """Decompress the next block; False at the end of the file."""
        data = self._compressed or self._file.read(1 << 16)
        self._compressed = b""
        if not data:
            if self._frame is not None:
                raise _Damage("the file ends inside a frame")
            return False
        if self._frame is None:
            library = self._library
            self._frame = library.ZstdDecompressor(max_window_size=LONGEST_WINDOW).decompressobj()
        try:
            self._plain = memoryview(self._frame.decompress(data))
        except self._library.ZstdError as error:
            raise _Damage(str(error)) from None
        if self._frame.eof:
            self._compressed, self._frame = self._frame.unused_data, None
        return True

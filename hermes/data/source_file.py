"""Sources as a preparation reads them: hashed on the way, and watched for changes."""

import hashlib
import os
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

from hermes.data.compression import strip_compression
from hermes.data.files import STANDARD_INPUT, name_source
from hermes.data.hub_datasets import is_hub_dataset
from hermes.data.remote import is_remote
from hermes.errors import DataError, StorageError, explain_os_error
from hermes.formatting import format_count

__all__ = [
    "CountingFile",
    "HashingFile",
    "ReadMeter",
    "SourceFile",
    "SourceHash",
    "find_source",
    "require_unchanged",
]


@dataclass(frozen=True)
class SourceFile:
    """A source and its state before it is read.

    name: as the user gave it. kind: its format. size, modified: bytes, and nanoseconds of the
    clock; 0 and 0 of what is no file.
    """

    name: str
    kind: str
    size: int = 0
    modified: int = 0

    @property
    def path(self) -> Path:
        """Where it is."""
        return Path(self.name)

    @property
    def is_file(self) -> bool:
        """Whether it is a local file, which can be read again."""
        return self.modified > 0

    def describe(self) -> dict[str, Any]:
        """What the plan of a preparation keeps of it; copies have another time of change."""
        return {key: value for key, value in asdict(self).items() if key != "modified"}


def find_source(path: Path, kind: str) -> SourceFile:
    """The state of a source. Raises StorageError, DataError where it is gone."""
    name = str(path)
    if path == STANDARD_INPUT or is_remote(path) or is_hub_dataset(path):
        return SourceFile(name, kind)
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the name") from None
    except OSError as error:
        raise StorageError(f"cannot look at {path}: {explain_os_error(error)}") from error
    if not stat.S_ISREG(found.st_mode):
        return SourceFile(name, kind)
    return SourceFile(name, kind, found.st_size, found.st_mtime_ns)


@dataclass(frozen=True)
class SourceHash:
    """What was read of a source: its bytes, and their SHA-256.

    of: 'file', or 'text' where the file is not read in order (Parquet) or is none.
    """

    name: str
    size: int
    sha256: str
    of: str = "file"


class CountingFile:
    """A file that is read in order, counted on the way."""

    def __init__(self, file: BinaryIO):
        self._file = file
        self.size = 0

    def read(self, count: int = -1) -> bytes:
        """Read up to `count` bytes."""
        data = self._file.read(count)
        self.size += len(data)
        return data

    def as_file(self) -> BinaryIO:
        """This object, for those who read nothing but `read`."""
        return cast(BinaryIO, self)


class HashingFile(CountingFile):
    """A file that is read in order, hashed on the way."""

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self._digest = hashlib.sha256()

    def read(self, count: int = -1) -> bytes:
        """Read up to `count` bytes."""
        data = super().read(count)
        self._digest.update(data)
        return data

    @property
    def sha256(self) -> str:
        """Of what was read so far."""
        return self._digest.hexdigest()


class ReadMeter:
    """How many bytes of a source its pieces so far are from.

    A file is read a block at a time, before the pieces in it: inside a block the text tells how
    far it is, which compression and escapes make inexact until the next one. A whole file of plain
    text is told by its text alone, since its long pieces come late.

    documents: what is a document of plain text.
    """

    def __init__(self, source: SourceFile, documents: str):
        self._source = source
        compressed = strip_compression(source.name)[1]
        self._is_plain = source.kind == "txt" and documents == "file" and not compressed
        self._share = 0.0  # of Parquet
        self._before = self._block_end = self._text = 0  # of the block, and text since its start
        self.read = 0

    def take_share(self, share: float) -> None:
        """Take note of the share of a file that is read, which is not read in order."""
        self._share = share

    def add(self, text_bytes: int, file: CountingFile | None) -> int:
        """Count a piece of text. file: that it is read from, None for others. -> bytes so far"""
        if file is None:
            own = round(self._share * self._source.size) if self._source.size else None
            self.read = self.read + text_bytes if own is None else max(self.read, own)
            return self.read
        if self._is_plain:
            self.read = min(self.read + text_bytes, file.size)
            return self.read
        if file.size != self._block_end:
            self._before, self._block_end, self._text = self._block_end, file.size, 0
        self._text += text_bytes
        self.read = max(self.read, min(self._before + self._text, self._block_end))
        return self.read


def require_unchanged(source: SourceFile, read: int | None) -> None:
    """Refuse a file that changed while it was read. read: bytes that were. Raises DataError."""
    if not source.is_file:
        return
    now = find_source(source.path, source.kind)
    size = now.size if read is None else read
    if (now.size, now.modified) != (source.size, source.modified) or size != source.size:
        raise DataError(
            f"{name_source(source.path)}: it changed while it was read "
            f"({format_count(source.size, 'bytes')} before, {now.size:,} now); wait until nothing "
            "writes to it and start again"
        )

"""Prepares one group of sources: reads it, and writes the shards that are wanted of it."""

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from hermes.data.bad_records import BadRecords
from hermes.data.document_index import INDEX
from hermes.data.document_reader import Document, read_file
from hermes.data.encoding_pool import EncodingPool, choose_batch_size
from hermes.data.prepared.manifest import Shard
from hermes.data.prepared.plan import Plan, name_shard
from hermes.data.source_file import HashingFile, ReadMeter, SourceHash, require_unchanged
from hermes.data.token_stream import join_pieces
from hermes.errors import DataError, HermesError, StorageError, explain_os_error
from hermes.storage.durable import TEMPORARY, Disk, write_atomically, write_file
from hermes.storage.plain_json import load_json
from hermes.storage.typed_json import build_typed

if TYPE_CHECKING:
    from hermes.tokenizer import Tokenizer

T = TypeVar("T")

__all__ = ["Group", "GroupReader", "name_group", "read_group", "read_shard", "write_shards"]


@dataclass(frozen=True)
class Group:
    """A group that was read to its end: how many shards it has, and what its sources were."""

    shards: int
    sources: tuple[SourceHash, ...]
    good: int
    bad: int
    first_bad: tuple[str, ...]


def name_group(group: int) -> str:
    """The file that says that a group was read to its end."""
    return f"group-{group:05}.json"


def read_group(folder: Path, group: int) -> Group | None:
    """What is known of a group; None where it was not read to its end."""
    return _read_receipt(folder / name_group(group), Group)


def read_shard(folder: Path, name: str) -> Shard | None:
    """What is known of a finished shard; None where it is not finished."""
    return _read_receipt(folder / f"{name}.json", Shard)


def _read_receipt(path: Path, kind: type[T]) -> T | None:
    """Read what a preparation keeps of what it finished; None where it is not finished."""
    try:
        found: T = build_typed(kind, load_json(path.read_bytes()), "it")
        return found
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"cannot read {path}: {explain_os_error(error)}") from error
    except (ValueError, HermesError) as error:
        raise DataError(
            f"{path}: not of a preparation ({error}); delete it, and its text is prepared again"
        ) from None


@dataclass(frozen=True)
class _Piece:
    """A piece of text of a shard. starts: whether a document begins with it."""

    text: str
    source: int
    line: int
    starts: bool
    ends: bool


@dataclass
class _Batch:
    """Pieces of one shard that are encoded together. read: bytes of the group up to their end."""

    shard: int
    pieces: list[_Piece]
    read: int = 0

    def prepare(self) -> "tuple[_Batch, list[str], list[bool]]":
        """The batch as an EncodingPool takes it."""
        texts = [one.text for one in self.pieces]
        return self, texts, [not one.starts for one in self.pieces]


class GroupReader:
    """Reads a group and yields the batches of those shards that are wanted.

    finished: of each shard that is, its hash of the text, which is compared. on_skipped: told of
    the bytes of the group that are read and of those that were not wanted, where some are not.
    """

    def __init__(
        self,
        plan: Plan,
        group: int,
        tokenizer: "Tokenizer",
        wants: Callable[[int], bool],
        finished: dict[int, str],
        on_skipped: Callable[[int, int], None],
    ):
        self._plan, self._group, self._tokenizer = plan, group, tokenizer
        self._wants, self._finished, self._on_skipped = wants, finished, on_skipped
        limit = plan.options.max_bad_records
        self._bad = None if limit is None else BadRecords(limit)
        self._sources: list[SourceHash] = []
        self.text_hashes: dict[int, str] = {}  # of the shards that were read to their ends
        self._shard, self._size = 0, 0
        self._digest = hashlib.sha256()
        self._batch_size = choose_batch_size()
        self.size = 0  # bytes of the sources that are read, up to the last piece

    def read(self) -> Iterator[tuple[_Batch, list[str], list[bool]]]:
        """Yield the batches in order, with their texts and whether each continues another.

        Raises DataError, StorageError.
        """
        batch, size, before = _Batch(0, []), 0, 0
        for piece in self._read_pieces():
            length = _count_bytes(piece.text)
            if self._size and self._size + length > self._plan.options.shard_size:
                self._end_shard()
            if self._wants(self._shard):
                if batch.pieces and (batch.shard != self._shard or size >= self._batch_size):
                    yield batch.prepare()
                    batch, size = _Batch(self._shard, []), 0
                batch.shard = self._shard
                batch.pieces.append(piece)
                batch.read = self.size
                size += len(piece.text)
            else:
                self._on_skipped(self.size, self.size - before)
            before = self.size
            self._digest.update(piece.text.encode())
            self._size += length
        if batch.pieces:
            yield batch.prepare()
        if self._size:
            self._end_shard()

    def _end_shard(self) -> None:
        """Go on to the next shard; of a finished one the text must be what it was."""
        before = self._finished.get(self._shard)
        if before is not None and before != self._digest.hexdigest():
            name = name_shard(self._group, self._shard)
            raise DataError(
                f"shard {name} was prepared from another text than the data has now; give another "
                "--output, or delete the folder and prepare the text anew"
            )
        self.text_hashes[self._shard] = self._digest.hexdigest()
        self._shard, self._size, self._digest = self._shard + 1, 0, hashlib.sha256()

    def _read_pieces(self) -> Iterator[_Piece]:
        for number in self._plan.groups[self._group]:
            source = self._plan.sources[number]
            require_unchanged(source, None)
            hashing: list[HashingFile] = []

            def wrap(file: Any, held: list[HashingFile] = hashing) -> Any:
                held.append(HashingFile(file))
                return held[0].as_file()

            text = hashlib.sha256()
            size, starts = 0, True
            form, start = self._plan.options.text_format, self.size
            meter = ReadMeter(source, form.documents)
            documents: Iterator[Document] = join_pieces(
                read_file(
                    source.path,
                    source.kind,
                    form,
                    bad=self._bad,
                    wrap=wrap,
                    on_share=meter.take_share,
                ),
                self._tokenizer,
            )
            for one in documents:
                length = _count_bytes(one.text)
                if not hashing:
                    text.update(one.text.encode())
                    size += length
                self.size = start + meter.add(length, hashing[0] if hashing else None)
                yield _Piece(one.text, number, one.line, starts, not one.more)
                starts = not one.more
            read = hashing[0].size if hashing else None
            require_unchanged(source, read)
            self.size = start + (read or source.size or size)
            if hashing:
                self._sources.append(SourceHash(source.name, hashing[0].size, hashing[0].sha256))
            else:
                size = source.size or size
                self._sources.append(SourceHash(source.name, size, text.hexdigest(), "text"))

    def get_result(self) -> Group:
        """What the group is, once it is read to its end."""
        bad = self._bad or BadRecords()
        return Group(self._shard, tuple(self._sources), bad.good, bad.bad, tuple(bad.first))


def _count_bytes(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def write_shards(
    folder: Path,
    reader: GroupReader,
    group: int,
    pool: EncodingPool,
    *,
    beginning: list[int],
    eos_id: int,
    dtype: str,
    disk: Disk,
    wait: Callable[[], None],
    on_tokens: Callable[[int, int, int], None],
) -> None:
    """Encode what the reader yields, and write its shards, each whole or not at all.

    wait: until the folder is begun, while the first text is being encoded. on_tokens: told of
    tokens and documents as they are written, and of how many bytes of the group those so far are
    from. Raises StorageError.
    """
    encoded = pool.encode(reader.read())
    for number, batches in groupby(encoded, key=lambda item: item[0].shard):
        name = name_shard(group, number)
        wait()
        shard = _ShardWriter(beginning, eos_id, dtype, on_tokens)
        beside = folder / f"{TEMPORARY}{name}-{secrets.token_hex(4)}"
        digest = write_file(beside, (shard.join(*one) for one in batches), disk)
        disk.rename(beside, folder / f"{name}.bin")
        index = np.array(shard.index, INDEX).tobytes()
        write_atomically(folder / f"{name}.idx", index, disk=disk)
        record = Shard(
            name,
            shard.tokens,
            len(shard.index),
            shard.text_bytes,
            shard.largest,
            digest.sha256,
            hashlib.sha256(index).hexdigest(),
            reader.text_hashes[number],
        )
        receipt = json.dumps(asdict(record)).encode()
        # After a power failure that loses this name the shard is made again.
        write_atomically(folder / f"{name}.json", receipt, disk=disk, sync_name=False)


class _ShardWriter:
    """Joins the ids of a shard's pieces to bytes, and keeps its counts and its index."""

    def __init__(
        self,
        beginning: list[int],
        eos_id: int,
        dtype: str,
        on_tokens: Callable[[int, int, int], None],
    ):
        self._beginning = np.array(beginning, np.uint32)
        self._eos = np.array([eos_id], np.uint32)
        self._dtype, self._on_tokens = dtype, on_tokens
        self.tokens = self.text_bytes = self.largest = 0
        self.index: list[tuple[int, int, int]] = []

    def join(self, batch: _Batch, ids: list[NDArray[np.uint32]]) -> bytes:
        """The bytes of a batch's ids, an end-of-text token after each document."""
        parts: list[NDArray[np.uint32]] = []
        before, documents = self.tokens, len(self.index)
        for piece, own in zip(batch.pieces, ids, strict=True):
            if piece.starts:
                self.index.append((self.tokens, piece.line, piece.source))
                parts.append(self._beginning)
                self.tokens += len(self._beginning)
            self.text_bytes += _count_bytes(piece.text)
            parts.append(own)
            self.tokens += len(own)
            if piece.ends:
                parts.append(self._eos)
                self.tokens += 1
        joined = np.concatenate(parts)
        self.largest = max(self.largest, int(joined.max(initial=0)))
        self._on_tokens(self.tokens - before, len(self.index) - documents, batch.read)
        return joined.astype(self._dtype).tobytes()

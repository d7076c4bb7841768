"""Reads text for a check, in documents with their tokens."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hermes.chat_templates.example import Example
from hermes.data.bad_records import BadRecords
from hermes.data.checking.checked_item import CheckedExample, CheckedItem
from hermes.data.checking.findings import CheckOptions
from hermes.data.document_reader import Document, choose_format, read_file
from hermes.data.encoding_pool import choose_batch_size
from hermes.data.text_field import OTHER_KINDS
from hermes.data.token_stream import join_pieces
from hermes.formatting import format_count

if TYPE_CHECKING:
    from hermes.tokenizer import Tokenizer

__all__ = ["TextReader"]

BATCH = 1024  # pieces encoded at a time, or as many characters as `choose_batch_size` says
# Fields of records that are no plain text, and the kind that they are.


class TextReader:
    """Reads the documents of files. bad: counts bad records; None to stop at the first.

    unread: how many records have each field that nothing reads.
    """

    def __init__(
        self, options: CheckOptions, tokenizer: "Tokenizer | None", bad: BadRecords | None
    ):
        self._format, self._tokenizer, self._bad = options.text_format, tokenizer, bad
        self._seq_len = options.seq_len
        self._pending: list[Document] = []
        self._size, self._batch_size = 0, choose_batch_size()
        self._open = _OpenDocument("")
        self.unread: Counter[str] = Counter()
        self._other: Counter[str] = Counter()
        self._empty = 0

    @property
    def notes(self) -> list[str]:
        """Sentences about records without text, and those that seem to be of another kind."""
        empty = format_count(self._empty, "records")
        told = [f"{empty} without text, of which no document is made"] if self._empty else []
        return told + [
            f"{format_count(count, 'records have', 'record has')} {name!r} and no "
            f"{self._format.text_field!r}; "
            f"--kind {OTHER_KINDS[name]} reads them"
            for name, count in self._other.items()
        ]

    def read(self, path: Path) -> Iterator[CheckedItem]:
        """Yield the documents of a file in parts, some late. Raises DataError, StorageError."""
        kind = choose_format(path, self._format)
        pieces = read_file(path, kind, self._format, bad=self._bad, on_value=self._count)
        if self._tokenizer is None:
            place = ""
            for piece in pieces:
                place = place or name_place(piece)
                yield CheckedItem(place, [piece.text], more=piece.more)
                place = place if piece.more else ""
            return
        for piece in join_pieces(pieces, self._tokenizer):
            self._pending.append(piece)
            self._size += len(piece.text)
            if len(self._pending) >= BATCH or self._size >= self._batch_size:
                yield from self.finish()

    def _count(self, value: Any) -> None:
        own = self._format.text_field
        text = value.get(own) if isinstance(value, dict) else value
        self._empty += text == ""
        if not isinstance(value, dict):
            return
        self.unread.update(name for name in value if name != own)
        if own not in value:
            self._other.update(name for name in OTHER_KINDS if name in value)

    def finish(self) -> Iterator[CheckedItem]:
        """Encode and yield the documents, or parts of one, that were held back."""
        pending, self._pending, self._size = self._pending, [], 0
        if not pending:
            return
        assert self._tokenizer is not None, "held back only to be encoded"
        flags, continued = [], self._open.place != ""
        for piece in pending:
            flags.append(continued)
            continued = piece.more
        encoded = self._tokenizer.encode_batch([one.text for one in pending], continued=flags)
        end = [] if self._tokenizer.eos_id is None else [self._tokenizer.eos_id]
        for piece, ids in zip(pending, encoded, strict=True):
            one = self._open
            if not one.place:
                one.place = name_place(piece)
                one.add(self._tokenizer.beginning, self._seq_len)
            one.add(ids, self._seq_len)
            examples = []
            if not piece.more:
                one.add(end, self._seq_len)
                examples.append(one.make_example(bool(end)))
                self._open = _OpenDocument("")
            yield CheckedItem(one.place, [piece.text], examples, more=piece.more)


def name_place(piece: Document) -> str:
    """Where a document begins."""
    return f"{piece.path}:{piece.line}"


@dataclass
class _OpenDocument:
    """The tokens so far of a document: how many, and the first ones. place: "" before it begins."""

    place: str
    length: int = 0
    first: list[int] = field(default_factory=list)

    def add(self, ids: Sequence[int], room: int) -> None:
        """Count more tokens, and keep them where there is still room."""
        self.length += len(ids)
        self.first += ids[: max(0, room - len(self.first))]

    def make_example(self, ends: bool) -> CheckedExample:
        """The document as an example of a run."""
        ids = np.array(self.first, np.int32)
        shown = Example(ids, np.ones(len(ids), bool), self.place)
        return CheckedExample(self.place, self.length, self.length, self.length, ends, (shown,))

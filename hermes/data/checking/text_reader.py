"""Reads text for a check, in documents with their tokens."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hermes.chat_templates.example import Example
from hermes.data.bad_records import BadRecords
from hermes.data.checking.checked_item import CheckedExample, CheckedItem
from hermes.data.checking.findings import CheckOptions
from hermes.data.document_reader import choose_format, read_file

if TYPE_CHECKING:
    from hermes.tokenizer import Tokenizer

__all__ = ["TextReader"]

BATCH = 256  # documents encoded at a time
# Fields of records that are no plain text, and the kind that they are.
OTHER_KINDS = {"messages": "conversations", "conversations": "conversations", "chosen": "pairs"}


class TextReader:
    """Reads the documents of files. bad: counts bad records; None to stop at the first.

    unread: how many records have each field that nothing reads.
    """

    def __init__(
        self, options: CheckOptions, tokenizer: "Tokenizer | None", bad: BadRecords | None
    ):
        self._format, self._tokenizer, self._bad = options.text_format, tokenizer, bad
        self._seq_len = options.seq_len
        self._pending: list[tuple[str, list[str]]] = []
        self.unread: Counter[str] = Counter()
        self._other: Counter[str] = Counter()

    @property
    def notes(self) -> list[str]:
        """Sentences about records that seem to be of another kind."""
        return [
            f"{count:,} records have {name!r} and no {self._format.text_field!r}; "
            f"--kind {OTHER_KINDS[name]} reads them"
            for name, count in self._other.items()
        ]

    def read(self, path: Path) -> Iterator[CheckedItem]:
        """Yield the documents of a file, some of them late. Raises DataError, StorageError."""
        texts: list[str] = []
        place = ""
        kind = choose_format(path, self._format)
        for piece in read_file(path, kind, self._format, bad=self._bad, on_value=self._count):
            place = place if texts else f"{piece.path}:{piece.line}"
            texts.append(piece.text)
            if piece.more:
                continue
            if self._tokenizer is None:
                yield CheckedItem(place, texts)
            else:
                self._pending.append((place, texts))
                if len(self._pending) >= BATCH:
                    yield from self.finish()
            texts = []

    def _count(self, value: Any) -> None:
        if not isinstance(value, dict):
            return
        own = self._format.text_field
        self.unread.update(name for name in value if name != own)
        if own not in value:
            self._other.update(name for name in OTHER_KINDS if name in value)

    def finish(self) -> Iterator[CheckedItem]:
        """Encode and yield the documents that were held back."""
        pending, self._pending = self._pending, []
        if not pending:
            return
        assert self._tokenizer is not None, "held back only to be encoded"
        flags = [number > 0 for _, texts in pending for number in range(len(texts))]
        pieces = [text for _, texts in pending for text in texts]
        encoded = iter(self._tokenizer.encode_batch(pieces, continued=flags))
        end = [] if self._tokenizer.eos_id is None else [self._tokenizer.eos_id]
        beginning = self._tokenizer.beginning
        for place, texts in pending:
            parts = [next(encoded) for _ in texts]
            length = len(beginning) + sum(map(len, parts)) + len(end)
            first = [*beginning, *parts[0]][: self._seq_len]
            ids = np.array([*first, *(end if len(first) == length - len(end) else [])], np.int32)
            shown = Example(ids, np.ones(len(ids), bool), place)
            example = CheckedExample(place, length, length, length, bool(end), (shown,))
            yield CheckedItem(place, texts, [example])

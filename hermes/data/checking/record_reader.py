"""Reads conversations and preference pairs for a check, rendered and encoded as sft and dpo do."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.example import Example
from hermes.chat_templates.messages import Message
from hermes.chat_templates.template import choose_template
from hermes.data.bad_records import BadRecords, skip_or_raise
from hermes.data.checking.checked_item import CheckedExample, CheckedItem
from hermes.data.checking.findings import CheckOptions
from hermes.data.conversations import parse_conversation
from hermes.data.document_reader import choose_format
from hermes.data.encoded_pairs import EncodedPair, encode_pair
from hermes.data.preferences import parse_pair
from hermes.data.records import Record, read_file_records
from hermes.errors import DataError
from hermes.tokenizer import CHAT_TEMPLATE

if TYPE_CHECKING:
    from hermes.tokenizer import Tokenizer

__all__ = ["RecordReader"]


class RecordReader:
    """Reads the conversations or pairs of files. bad: counts bad records; None to stop at one.

    unread: how many records have each field that nothing reads.
    """

    def __init__(
        self, options: CheckOptions, tokenizer: "Tokenizer | None", bad: BadRecords | None
    ):
        self._options, self._tokenizer, self._bad = options, tokenizer, bad
        self.unread: Counter[str] = Counter()
        self.notes: list[str] = []
        self._encoder: ChatEncoder | None = None
        if tokenizer is not None:
            template = choose_template(
                options.template_config, file=options.template, default=CHAT_TEMPLATE
            )
            self._encoder = ChatEncoder(tokenizer, template)
            self._ends = tokenizer.stop_ids | _find_end(self._encoder)

    def read(self, path: Path) -> Iterator[CheckedItem]:
        """Yield the records of a file. Raises DataError, StorageError."""
        kind = choose_format(path, self._options.text_format)
        kind = "jsonl" if kind == "txt" and str(path) == "-" else kind
        read = self._read_pair if self._options.kind == "pairs" else self._read_conversation
        for record in read_file_records(path, kind, bad=self._bad):
            try:
                item = read(record)
            except DataError as error:
                skip_or_raise(error, self._bad)
                continue
            if self._bad is not None:
                self._bad.good += 1
            yield item

    def finish(self) -> Iterator[CheckedItem]:
        """Yield nothing: no record is held back."""
        return iter(())

    def _read_conversation(self, record: Record) -> CheckedItem:
        found = parse_conversation(record)
        texts = [found.text] if found.text is not None else _list_texts(found.messages)
        examples: list[CheckedExample] = []
        if self._encoder is None:
            self.unread.update(found.unread)
        else:
            encoded = self._encoder.encode_all(found)
            self._take_unread(self._encoder)
            examples = [self._describe([one]) for one in encoded]
        return CheckedItem(found.where, texts, examples)

    def _read_pair(self, record: Record) -> CheckedItem:
        value = record.value
        if isinstance(value, dict) and value.get("chosen") == value.get("rejected") is not None:
            return CheckedItem(record.where, [json.dumps(value)], is_equal=True)
        found = parse_pair(record)
        texts = _list_texts([*found.prompt, *found.chosen, *found.rejected])
        examples: list[CheckedExample] = []
        if self._encoder is None:
            self.unread.update(found.unread)
        else:
            encoded: EncodedPair = encode_pair(found, self._encoder)
            self._take_unread(self._encoder)
            examples = [self._describe([encoded.chosen, encoded.rejected])]
        return CheckedItem(found.where, texts, examples)

    def _take_unread(self, encoder: ChatEncoder) -> None:
        """Count what the encoder found, whose names are quoted."""
        for name, count in encoder.unread.items():
            self.unread[name.strip("'")] += count
        encoder.unread.clear()

    def _describe(self, sides: list[Example]) -> CheckedExample:
        ends = all(bool(self._ends & set(side.ids[side.loss_mask].tolist())) for side in sides)
        return CheckedExample(
            sides[0].where,
            max(map(len, sides)),
            sum(map(len, sides)),
            sum(int(side.loss_mask.sum()) for side in sides),
            ends,
            tuple(sides),
        )


def _find_end(encoder: ChatEncoder) -> set[int]:
    """The special token that ends a turn by the template; none where it writes none."""
    try:
        return {encoder.find_end_of_turn()} & encoder.tokenizer.special_ids
    except DataError:
        return set()


def _list_texts(messages: Iterable[Message]) -> list[str]:
    """The text of messages: their contents, of which parts that are no strings are left out."""
    found: list[str] = []
    for message in messages:
        content: Any = message.get("content")
        parts = content if isinstance(content, list) else [content]
        for part in parts:
            text = part.get("text") if isinstance(part, dict) else part
            if isinstance(text, str):
                found.append(text + "\n")
    return found

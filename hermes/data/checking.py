"""Looks through text for what would spoil a run, before anybody pays for one.

Faults are bad records, replacement characters, text that was decoded wrongly, NULs, and documents
that are in the validation text, too. Repeated documents and fields that are not read are told, and
may be meant. Memory grows by some 100 bytes for each document, for its hash.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hermes.data.bad_records import LISTED, BadRecords
from hermes.data.document_reader import Document, TextFormat, choose_format, read_file
from hermes.data.files import Paths, expand_paths
from hermes.errors import DataError
from hermes.formatting import format_count

if TYPE_CHECKING:
    from hermes.tokenizer import Tokenizer

__all__ = ["CheckOptions", "Findings", "Places", "check_text"]

# UTF-8 that was read as Windows-1252 or Latin-1: the lead byte of a letter with a mark, or of
# typographic punctuation, and what follows it.
MOJIBAKE = re.compile("[ÃÂ][\u0080-\u00bf]|â€[\u0080-\u2122œžŸ]|ðŸ")
BATCH = 256  # documents encoded at a time


@dataclass
class Places:
    """How often something was found, and the first places."""

    count: int = 0
    first: list[str] = field(default_factory=list)

    def add(self, place: str) -> None:
        """Count one more."""
        self.count += 1
        if len(self.first) < LISTED:
            self.first.append(place)


@dataclass
class Findings:
    """What was found in a text.

    lengths: numbers of documents by the power of two that their tokens (without a tokenizer:
    characters) are below. longer: documents of more than seq_len tokens. unread: how many records
    have each field that is not read.
    """

    files: int = 0
    documents: int = 0
    text_bytes: int = 0
    tokens: int | None = None
    longest: int = 0
    longer: int | None = None
    lengths: dict[int, int] = field(default_factory=dict)
    unread: dict[str, int] = field(default_factory=dict)
    bad_records: Places = field(default_factory=Places)
    replacements: Places = field(default_factory=Places)
    mojibake: Places = field(default_factory=Places)
    nuls: Places = field(default_factory=Places)
    repeated: Places = field(default_factory=Places)
    overlap: Places = field(default_factory=Places)

    @property
    def faults(self) -> list[str]:
        """Sentences about what would spoil a run."""
        found = (
            (self.bad_records, "bad records", "bad record", ""),
            (self.replacements, "documents", "document", " with U+FFFD, a lost character"),
            (self.mojibake, "documents", "document", " decoded wrongly, such as Ã© for é"),
            (self.nuls, "documents", "document", " with NUL characters"),
            (self.overlap, "documents", "document", " in the validation text, too"),
        )
        return [
            f"{format_count(places.count, many, one)}{what}; the first: {places.first[0]}"
            for places, many, one, what in found
            if places.count
        ]

    @property
    def bytes_per_token(self) -> float | None:
        """How much text a token stands for; None without a tokenizer."""
        return self.text_bytes / self.tokens if self.tokens else None


@dataclass(frozen=True)
class CheckOptions:
    """How text is read for a check, and the length of a sequence."""

    text_format: TextFormat = field(default_factory=TextFormat)
    seq_len: int = 256


def check_text(
    paths: Paths,
    *,
    validation: Paths = (),
    tokenizer: "Tokenizer | None" = None,
    options: CheckOptions | None = None,
    watch: Callable[[int], None] = lambda documents: None,
) -> Findings:
    """Look through text. watch: told how many documents are done.

    Raises DataError for what has no further records: a file that is missing, empty or cut short.
    """
    chosen = options or CheckOptions()
    checker = _Checker(chosen, tokenizer, watch)
    held_out = [validation] if isinstance(validation, str | Path) else list(validation)
    for path in expand_paths(held_out) if held_out else ():
        for digest, _, _ in _hash_documents(_read(path, chosen.text_format, None)):
            checker.held_out.add(digest)
    for path in expand_paths(paths):
        checker.check_file(path)
    return checker.finish()


def _read(path: Path, text_format: TextFormat, bad: BadRecords | None) -> Iterator[Document]:
    return read_file(path, choose_format(path, text_format), text_format, bad=bad)


def _hash_documents(pieces: Iterator[Document]) -> Iterator[tuple[int, str, list[str]]]:
    """Yield each document's hash, its place, and its pieces."""
    held: list[str] = []
    digest, place = hashlib.blake2b(digest_size=8), ""
    for piece in pieces:
        place = place or f"{piece.path}:{piece.line}"
        digest.update(piece.text.encode())
        held.append(piece.text)
        if not piece.more:
            yield int.from_bytes(digest.digest(), "little"), place, held
            held, digest, place = [], hashlib.blake2b(digest_size=8), ""


class _Checker:
    """Collects the findings of one text."""

    def __init__(
        self,
        options: CheckOptions,
        tokenizer: "Tokenizer | None",
        watch: Callable[[int], None],
    ):
        self._options, self._tokenizer, self._watch = options, tokenizer, watch
        self._found = Findings()
        self._seen: set[int] = set()
        self.held_out: set[int] = set()
        self._lengths: Counter[int] = Counter()
        self._pending: list[list[str]] = []
        self._bad = BadRecords(1.0)
        self._unread: Counter[str] = Counter()

    def check_file(self, path: Path) -> None:
        """Look through one file. Raises DataError for what cannot be read any further."""
        self._found.files += 1
        text_format = self._options.text_format
        pieces = read_file(
            path,
            choose_format(path, text_format),
            text_format,
            bad=self._bad,
            on_value=self._count_unread,
        )
        for digest, place, texts in _hash_documents(pieces):
            self._check_document(digest, place, texts)

    def _count_unread(self, value: Any) -> None:
        if isinstance(value, dict):
            field_name = self._options.text_format.text_field
            self._unread.update(name for name in value if name != field_name)

    def _check_document(self, digest: int, place: str, texts: list[str]) -> None:
        found = self._found
        found.documents += 1
        found.text_bytes += sum(len(text.encode()) for text in texts)
        for places, is_there in (
            (found.replacements, any("\ufffd" in text for text in texts)),
            (found.mojibake, any(MOJIBAKE.search(text) for text in texts)),
            (found.nuls, any("\0" in text for text in texts)),
            (found.repeated, digest in self._seen),
            (found.overlap, digest in self.held_out),
        ):
            if is_there:
                places.add(place)
        self._seen.add(digest)
        if self._tokenizer is None:
            self._add_length(sum(map(len, texts)))
            return
        self._pending.append(texts)
        if len(self._pending) >= BATCH:
            self._encode()

    def _encode(self) -> None:
        assert self._tokenizer is not None, "asked only where there is one"
        pieces = [text for texts in self._pending for text in texts]
        lengths = iter(map(len, self._tokenizer.encode_batch(pieces)))
        for texts in self._pending:
            self._add_length(sum(next(lengths) for _ in texts) + 1)  # with its end of text
        self._pending = []
        self._watch(self._found.documents)

    def _add_length(self, length: int) -> None:
        found = self._found
        found.longest = max(found.longest, length)
        self._lengths[1 << length.bit_length()] += 1
        if self._tokenizer is not None:
            found.tokens = (found.tokens or 0) + length
            found.longer = (found.longer or 0) + (length > self._options.seq_len)

    def finish(self) -> Findings:
        """All findings. Raises DataError where there is no document."""
        if self._pending:
            self._encode()
        found, bad = self._found, self._bad
        found.bad_records = Places(bad.bad, bad.first)
        found.lengths = dict(sorted(self._lengths.items()))
        found.unread = dict(self._unread.most_common())
        if not found.documents and not bad.bad:
            raise DataError("there is no text to check; give files that have some")
        return found

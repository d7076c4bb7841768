"""Looks through data for what would spoil a run, before anybody pays for one.

Faults are bad records, replacement characters, text that was decoded wrongly, NULs, documents that
are in the validation text, too, pairs without a preference, and examples that never end. Repeated
documents and fields that are not read are told, and may be meant. Of text some millions of
characters are held at a time, however long a document is. Memory grows by some 100 bytes for each
document, for its hash, and with near duplicates by some 4 kB.
"""

from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from hermes.data.bad_records import BadRecords
from hermes.data.checking.document_scan import DocumentScan
from hermes.data.checking.findings import CheckOptions, Findings, Places, Sample
from hermes.data.checking.near_duplicates import NearDuplicates, Sketch
from hermes.data.checking.record_reader import RecordReader
from hermes.data.checking.scripts import ScriptCounter
from hermes.data.checking.text_reader import TextReader
from hermes.data.example_rows import pack_rows
from hermes.data.file_names import expand_paths, read_names
from hermes.data.files import Paths, describe_textless, name_source
from hermes.data.trained_text import split_trained
from hermes.errors import DataError

if TYPE_CHECKING:
    from hermes.data.checking.bill import Bill
    from hermes.data.checking.checked_item import CheckedItem
    from hermes.tokenizer import Tokenizer

__all__ = ["check_text"]


def check_text(
    paths: Paths,
    *,
    validation: Paths = (),
    tokenizer: "Tokenizer | None" = None,
    options: CheckOptions | None = None,
    watch: Callable[[int], None] = lambda documents: None,
) -> Findings:
    """Look through data. watch: told how many documents are done.

    Raises DataError for what has no further records: a file that is missing, empty or cut short.
    """
    chosen = options or CheckOptions()
    if chosen.template is not None and (chosen.kind == "text" or tokenizer is None):
        raise DataError("--template belongs to --kind conversations and pairs with a --tokenizer")
    if chosen.plan.tokens_per_second and tokenizer is None:
        raise DataError("--tokens-per-second needs the number of tokens: give --tokenizer")
    checker = _Checker(chosen, tokenizer, watch)
    held_out = [validation] if isinstance(validation, str | Path) else list(validation)
    named = [paths] if isinstance(paths, str | Path) else list(paths)
    read_names([*held_out, *named])  # one of them all is standard input
    for path in expand_paths(held_out) if held_out else ():
        checker.hold_out(path)
    for path in expand_paths(named):
        checker.check_file(path)
    return checker.finish()


class _Checker:
    """Collects the findings of one set of data."""

    def __init__(
        self,
        options: CheckOptions,
        tokenizer: "Tokenizer | None",
        watch: Callable[[int], None],
    ):
        self._options, self._tokenizer, self._watch = options, tokenizer, watch
        self._found = Findings(options.kind)
        self._seen: set[int] = set()
        self._held_out: set[int] = set()
        self._scripts = ScriptCounter()
        self._bad = BadRecords(1.0)
        self._names: list[str] = []  # of the files
        self._lengths = array("q")
        self._near: NearDuplicates | None = None
        self._near_held_out: NearDuplicates | None = None
        if options.near_duplicates is not None:
            self._near = NearDuplicates(options.near_duplicates)
            self._found.near = Places()
        make = TextReader if options.kind == "text" else RecordReader
        self._reader: TextReader | RecordReader = make(options, tokenizer, self._bad)
        self._samples: list[Sample] = []
        self._shown = 0
        self._scan = self._start_scan()

    def _start_scan(self) -> DocumentScan:
        """Start on a document."""
        return DocumentScan(None if self._near is None else self._near.start_sketch())

    def hold_out(self, path: Path) -> None:
        """Remember the validation text of a file. Raises DataError."""
        chosen = self._options.near_duplicates
        if chosen is not None and self._near_held_out is None:
            self._near_held_out = NearDuplicates(chosen)
            self._found.near_overlap = Places()
        make = TextReader if self._options.kind == "text" else RecordReader
        reader = make(self._options, None, self._bad)
        scan = self._start_scan()
        for item in reader.read(path):
            scan.add(item.texts)
            if item.more:
                continue
            self._held_out.add(scan.hash)
            if self._near_held_out is not None and scan.sketch is not None:
                self._near_held_out.find_alike(scan.sketch, item.where)
            scan = self._start_scan()

    def check_file(self, path: Path) -> None:
        """Look through one file. Raises DataError for what cannot be read any further."""
        self._found.files += 1
        self._names.append(name_source(path))
        for item in self._reader.read(path):
            self._check_item(item)

    def _check_item(self, item: "CheckedItem") -> None:
        found, scan, place = self._found, self._scan, item.where
        scan.add(item.texts)
        for text in item.texts:
            self._scripts.add(text)
        if item.more:
            return
        self._scan = self._start_scan()
        found.documents += 1
        found.text_bytes += scan.text_bytes
        repeated, held_out = scan.hash in self._seen, scan.hash in self._held_out
        for places, is_there in (
            (found.replacements, scan.has_replacement),
            (found.mojibake, scan.has_mojibake),
            (found.nuls, scan.has_nul),
            (found.repeated, repeated),
            (found.overlap, held_out),
            (found.equal, item.is_equal),
        ):
            if is_there:
                places.add(place)
        self._seen.add(scan.hash)
        if scan.sketch is not None and not repeated and not held_out:
            self._find_near(scan.sketch, place)
        self._count_lengths(item, scan.characters)
        if found.documents % 256 == 0:
            self._watch(found.documents)

    def _find_near(self, sketch: Sketch, place: str) -> None:
        """Compare a document with those before it and with those of the validation text."""
        found = self._found
        for index, places, keep in (
            (self._near_held_out, found.near_overlap, False),
            (self._near, found.near, True),
        ):
            if index is None or places is None:
                continue
            alike = index.find_alike(sketch, place, keep=keep)
            if alike is not None:
                places.add(f"{place} is {alike[1]:.0%} like {alike[0]}")

    def _count_lengths(self, item: "CheckedItem", characters: int) -> None:
        found, options = self._found, self._options
        if self._tokenizer is None:
            self._add_length(characters)
            return
        for example in item.examples:
            length = example.longest
            self._add_length(length)
            found.tokens = (found.tokens or 0) + example.tokens
            found.trained = (found.trained or 0) + example.trained
            found.longer = (found.longer or 0) + (length > options.seq_len)
            found.cut_tokens = (found.cut_tokens or 0) + max(0, length - options.seq_len)
            found.ended = (found.ended or 0) + example.ends
            for side in example.sides if self._shown < options.show_samples else ():
                room = options.seq_len
                parts = split_trained(
                    self._tokenizer, side.ids[:room].tolist(), side.loss_mask[:room].tolist()
                )
                self._samples.append(Sample(side.where, length, tuple(parts)))
            self._shown += 1

    def _add_length(self, length: int) -> None:
        self._found.examples += 1
        self._found.longest = max(self._found.longest, length)
        self._lengths.append(length)

    def finish(self) -> Findings:
        """All findings. Raises DataError where there is no document."""
        for item in self._reader.finish():
            self._check_item(item)
        found, bad = self._found, self._bad
        found.bad_records = Places(bad.bad, bad.first)
        counts = Counter(1 << length.bit_length() for length in self._lengths)
        found.lengths = dict(sorted(counts.items()))
        found.unread = dict(self._reader.unread.most_common())
        found.notes = tuple(self._reader.notes)
        found.scripts = self._scripts.sum_bytes()
        found.samples = tuple(self._samples)
        if not found.documents and not bad.bad:
            raise DataError(describe_textless(self._names))
        found.bill = self._compute_bill()
        return found

    def _compute_bill(self) -> "Bill | None":
        """What a run takes; None without a tokenizer."""
        found, seq_len = self._found, self._options.seq_len
        if not found.tokens:
            return None
        match found.kind:
            case "text":
                samples = (found.tokens - 1) // seq_len
                tokens = samples * seq_len
            case "conversations":
                fitting = [length - 1 for length in self._lengths if 1 < length <= seq_len + 1]
                samples, tokens = len(pack_rows(fitting, seq_len)), sum(fitting)
            case _:
                samples, tokens = found.examples, found.tokens
        return self._options.plan.compute_bill(samples, tokens)

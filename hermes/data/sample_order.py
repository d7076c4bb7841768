"""Which tokens each sample of a run is, and which samples a document is in: both without a table.

A run's samples are windows of one stream, windows of a mixture of several, or documents.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np

from hermes.data.continued_order import Order, continue_order
from hermes.data.document_index import DocumentIndex, IndexedDocument
from hermes.data.fitted_documents import FittedDocuments
from hermes.data.mixture_order import MixtureOrder, name_order
from hermes.data.order import Cursor, order_samples
from hermes.data.run_data import DataRecord, SourceRecord
from hermes.numerics.randomness import invert_permutation, permute

__all__ = ["FoundSample", "SampleOrder", "Window", "open_sample_order"]

AT_ONCE = 4096  # epochs

OpenIndex = Callable[[SourceRecord], DocumentIndex]


@dataclass(frozen=True)
class Window:
    """The tokens of a sample: its source's number, its epoch there, tokens start to stop - 1."""

    source: int
    epoch: int
    start: int
    stop: int


@dataclass(frozen=True)
class FoundSample:
    """A sample of a run by its number, from 0, and its tokens."""

    sample: int
    window: Window


class SampleOrder(Protocol):
    """The samples of a run on one record of data."""

    def list_windows(self, samples: range) -> list[Window]:
        """List the tokens of samples. Raises DataError, StorageError."""
        ...

    def find_samples(
        self, source: int, document: IndexedDocument, samples: range
    ) -> Iterator[FoundSample]:
        """Yield those of these samples that have a token of a document of a source."""
        ...

    def count_held_out(self, source: SourceRecord, document: IndexedDocument) -> int:
        """Count the tokens of a document of a source that are in its samples for validation."""
        ...

    def explain_absence(self, source: SourceRecord, document: IndexedDocument) -> str:
        """Say why a document of a source is in no sample at all; "" where it is in some."""
        ...


def open_sample_order(record: DataRecord, open_index: OpenIndex) -> SampleOrder:
    """The order of the samples of a record. open_index: opens the index of one of its sources."""
    return DocumentOrder(record, open_index) if record.overlong else WindowOrder(record)


class WindowOrder:
    """Samples that are windows of one stream, or of the streams of a mixture."""

    def __init__(self, record: DataRecord):
        self.record = record
        sizes = [one.train for one in record.trained]
        phases = record.phases
        self._mixture: Order | None = None
        if phases:
            order = MixtureOrder(record.seed, phases, sizes, record.numbering)
            self._mixture = continue_order(order, record.continuations)

    def list_windows(self, samples: range) -> list[Window]:
        """List the tokens of samples."""
        seed, size = self.record.seed, self.record.size
        if self._mixture is not None:
            positions = np.arange(samples.start, samples.stop)
            found = self._mixture.find_windows(positions)
            source, number, epoch = (array.tolist() for array in found)
        else:
            cursor = Cursor(*divmod(samples.start, size))
            number = order_samples(seed, cursor, len(samples), size).tolist()
            source, epoch = [0] * len(samples), [sample // size for sample in samples]
        return [self._cut(*one) for one in zip(source, number, epoch, strict=True)]

    def _cut(self, source: int, number: int, epoch: int) -> Window:
        start = number * self.record.seq_len
        return Window(source, epoch, start, start + self.record.seq_len + 1)

    def find_samples(
        self, source: int, document: IndexedDocument, samples: range
    ) -> Iterator[FoundSample]:
        """Yield those of these samples that have a token of a document of a source."""
        size = self.record.trained[source].train
        windows = _find_windows(document, self.record.seq_len, size)
        if not windows:
            return
        for group in _split_range(self._find_epochs(source, size, samples)):
            numbers = np.empty((len(group), len(windows)), np.int64)
            for place, epoch in enumerate(group):
                purpose = f"order/{epoch}"
                if self._mixture is not None:
                    purpose = name_order(source, epoch)
                order = invert_permutation(self.record.seed, purpose, size, np.asarray(windows))
                numbers[place] = epoch * size + order
            found = numbers
            if self._mixture is not None:
                found = self._mixture.find_positions(source, numbers.ravel())
                found = found.reshape(numbers.shape)
            rows, columns = np.nonzero((found >= samples.start) & (found < samples.stop))
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
                window = self._cut(source, windows[column], group[row])
                yield FoundSample(int(found[row, column]), window)

    def _find_epochs(self, source: int, size: int, samples: range) -> range:
        """Epochs of a source among which are all that are in a stretch of the run."""
        numbers = samples
        if self._mixture is not None:
            numbers = self._mixture.find_numbers(source, samples)
        return range(numbers.start // size, -(-numbers.stop // size))

    def count_held_out(self, source: SourceRecord, document: IndexedDocument) -> int:
        """Count the tokens of a document of a source that are in windows for validation."""
        if not source.held_out:
            return 0
        seq_len = self.record.seq_len
        first = source.train * seq_len if source.held_from is None else source.held_from
        last = first + source.held_out * seq_len + 1
        return max(0, min(document.stop, last) - max(document.start, first))

    def explain_absence(self, source: SourceRecord, document: IndexedDocument) -> str:
        """Say why a document of a source is in no window; "" where it is in some."""
        is_trained = len(_find_windows(document, self.record.seq_len, source.train)) > 0
        if is_trained or self.count_held_out(source, document):
            return ""
        return "it is behind the last whole sequence"


class DocumentOrder:
    """Samples that are whole documents, of one stream, each in a row of its own."""

    def __init__(self, record: DataRecord, open_index: OpenIndex):
        self.record, self._open_index = record, open_index

    @cached_property
    def _fitted(self) -> dict[SourceRecord, FittedDocuments]:
        return {}

    def _fit(self, source: SourceRecord) -> FittedDocuments:
        if source not in self._fitted:
            index = self._open_index(source)
            self._fitted[source] = FittedDocuments(index, self.record.seq_len, self.record.overlong)
        return self._fitted[source]

    def list_windows(self, samples: range) -> list[Window]:
        """List the tokens of samples. Raises DataError, StorageError."""
        (source,) = self.record.trained
        fitted, size = self._fit(source), self.record.size
        cursor = Cursor(*divmod(samples.start, size))
        order = order_samples(self.record.seed, cursor, len(samples), size)
        chosen = permute(self.record.seed, "held-out", len(fitted), order)
        return [
            Window(0, sample // size, start, start + length)
            for sample, start, length in zip(
                samples, *(one.tolist() for one in fitted.locate(chosen)), strict=True
            )
        ]

    def _find_number(self, source: SourceRecord, document: IndexedDocument) -> int | None:
        """Find a document's number among those to train on, and behind them those held out."""
        fitted = self._fit(source)
        number = fitted.find_number(document.number)
        if number is None or source is self.record.validation:
            return number
        seed, own = self.record.seed, np.array([number])
        return int(invert_permutation(seed, "held-out", len(fitted), own)[0])

    def find_samples(
        self, source: int, document: IndexedDocument, samples: range
    ) -> Iterator[FoundSample]:
        """Yield those of these samples that are a document."""
        record = self.record.trained[source]
        number, size = self._find_number(record, document), record.train
        if number is None or number >= size:
            return
        length = min(document.stop - document.start, self.record.seq_len + 1)
        own = np.array([number])
        for epoch in range(samples.start // size, -(-samples.stop // size)):
            order = invert_permutation(self.record.seed, f"order/{epoch}", size, own)
            sample = epoch * size + int(order[0])
            if sample in samples:
                window = Window(source, epoch, document.start, document.start + length)
                yield FoundSample(sample, window)

    def count_held_out(self, source: SourceRecord, document: IndexedDocument) -> int:
        """Count the tokens of a document of a source that are in its row of the validation."""
        if not source.held_out:
            return 0
        number = self._find_number(source, document)
        if number is None or number < source.train:
            return 0
        return min(document.stop - document.start, self.record.seq_len + 1)

    def explain_absence(self, source: SourceRecord, document: IndexedDocument) -> str:
        """Say why a document has no row; "" where it has one."""
        if self._find_number(source, document) is not None:
            return ""
        return self._fit(source).explain_absence(document.stop - document.start)


def _split_range(numbers: range) -> Iterator[range]:
    """Split a range into parts of bounded length."""
    for start in range(numbers.start, numbers.stop, AT_ONCE):
        yield range(start, min(start + AT_ONCE, numbers.stop))


def _find_windows(document: IndexedDocument, seq_len: int, count: int) -> range:
    """The windows, of the first `count`, that have a token of a document as input or target."""
    first = max(0, -(-document.start // seq_len) - 1)
    return range(first, min(count, (document.stop - 1) // seq_len + 1))

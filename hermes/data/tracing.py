"""Traces documents to the steps that read them, and steps to their documents.

A sample is a function of (seed, epoch, number), and this function can be inverted, so data.json
and the indexes of documents answer both questions without reading tokens.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from hermes.data.document_index import DocumentIndex, IndexedDocument, parse_place
from hermes.data.mixture import find_numbers, find_positions, find_windows, name_order
from hermes.data.order import Cursor, order_samples
from hermes.data.run_data import (
    DataRecord,
    RunData,
    SessionRecord,
    SourceRecord,
    open_source_index,
)
from hermes.errors import DataError
from hermes.numerics.randomness import invert_permutation

AT_ONCE = 4096  # epochs

__all__ = ["DocumentTrace", "Reading", "RunTrace", "TracedPart", "TracedSample", "Window"]


@dataclass(frozen=True)
class Reading:
    """A step that reads a document: in which of its rows, and which of the document's tokens.

    epoch: of the source, from 0. row: of the step, over all ranks; rank, micro_batch: who has it.
    tokens first to last - 1 of the document are among the inputs and targets of the row.
    """

    step: int
    epoch: int
    row: int
    rank: int
    micro_batch: int
    first: int
    last: int


@dataclass(frozen=True)
class DocumentTrace:
    """A document, and every step of the run that reads some of it, in order.

    where: its source and line. tokens: how many it has. held_out: how many of them are in
    sequences of the validation. steps_done: how many steps the run has made; those of later
    readings are to come.
    """

    where: str
    tokens: int
    readings: tuple[Reading, ...]
    held_out: int = 0
    steps_done: int = 0

    @property
    def steps(self) -> tuple[int, ...]:
        """The steps by number, each once."""
        return tuple(dict.fromkeys(reading.step for reading in self.readings))


@dataclass(frozen=True)
class TracedPart:
    """Tokens first to last - 1 of a document of `tokens` tokens, which a row has."""

    where: str
    first: int
    last: int
    tokens: int


@dataclass(frozen=True)
class TracedSample:
    """A row of a step: who has it, the source and its epoch, and the documents in it."""

    row: int
    rank: int
    micro_batch: int
    source: str
    epoch: int
    start: int
    parts: tuple[TracedPart, ...]


@dataclass(frozen=True)
class Window:
    """The window of a sample: its source's number, its epoch there, and its first token."""

    source: int
    epoch: int
    start: int


class RunTrace:
    """The samples of a run, by its folder's data.json. Raises DataError, StorageError."""

    def __init__(self, run: Path, data: RunData | None = None):
        self.run, self.data = run, data or RunData.read(run)
        if not self.data.sessions:
            raise DataError(f"{run} has made no step yet, so there is nothing to trace")

    @cached_property
    def _indexes(self) -> dict[SourceRecord, DocumentIndex]:
        return {}

    def _open(self, record: DataRecord, source: SourceRecord) -> DocumentIndex:
        if source not in self._indexes:
            self._indexes[source] = open_source_index(self.run, record, source)
        return self._indexes[source]

    @property
    def total_steps(self) -> int:
        """The run's last step."""
        return self.data.sessions[-1].total_steps

    def _list_sessions(self) -> Iterator[tuple[SessionRecord, range]]:
        """Yield each session with its steps."""
        sessions = self.data.sessions
        ends = [*(after.step for after in sessions[1:]), self.total_steps]
        for session, end in zip(sessions, ends, strict=True):
            yield session, range(session.step + 1, end + 1)

    def find_session(self, step: int) -> SessionRecord:
        """Find the session that makes a step. Raises DataError for one outside the run."""
        for session, steps in self._list_sessions():
            if step in steps:
                return session
        first = self.data.sessions[0].step
        raise DataError(
            f"{self.run} has steps {first + 1:,} to {self.total_steps:,}; there is no {step:,}"
            + (f" in its data.json, which begins after step {first:,}" if first else "")
        )

    def list_windows(self, step: int) -> list[Window]:
        """List the windows of a step's samples, by row. Raises DataError."""
        session = self.find_session(step)
        record = self.data.records[session.data]
        samples = session.list_samples(step)
        if record.shares:
            sizes = [one.train for one in record.trained]
            positions = np.arange(samples.start, samples.stop)
            found = find_windows(record.seed, record.shares, sizes, positions)
            source, window, epoch = (array.tolist() for array in found)
        else:
            size = record.size
            cursor = Cursor(*divmod(samples.start, size))
            window = order_samples(record.seed, cursor, len(samples), size).tolist()
            source, epoch = [0] * len(samples), [sample // size for sample in samples]
        starts = [number * record.seq_len for number in window]
        return [Window(*one) for one in zip(source, epoch, starts, strict=True)]

    def trace_step(self, step: int) -> tuple[TracedSample, ...]:
        """Find the documents of a step's rows. Raises DataError, StorageError."""
        session = self.find_session(step)
        record = self.data.records[session.data]
        found = []
        for row, window in enumerate(self.list_windows(step)):
            source = record.trained[window.source]
            stop = window.start + record.seq_len + 1
            documents = self._open(record, source).find_tokens(window.start, stop)
            parts = tuple(_cut_document(one, window.start, stop) for one in documents)
            micro_batch, rank = divmod(row // session.batch_size, session.world_size)
            name = ", ".join(source.data)
            found.append(
                TracedSample(row, rank, micro_batch, name, window.epoch, window.start, parts)
            )
        return tuple(found)

    def trace_document(self, place: str, steps_done: int = 0) -> tuple[DocumentTrace, ...]:
        """Find the steps that read a document, 'file:line', one trace for each that has this place.

        steps_done: how many steps the run has made. Raises DataError, StorageError.
        """
        name, line = parse_place(place)
        readings: dict[tuple[str, int], list[Reading]] = {}
        held_out: dict[tuple[str, int], int] = {}
        refused: DataError | None = None
        for number, record in enumerate(self.data.records):
            for own, source in enumerate((*record.trained, *filter(None, [record.validation]))):
                try:
                    documents = self._open(record, source).find_place(name, line)
                except DataError as error:
                    refused = refused or error
                    continue
                for document in documents:
                    key = document.where, document.stop - document.start
                    found = readings.setdefault(key, [])
                    if own < len(record.trained):
                        found += self._find_readings(number, own, document)
                    held_out[key] = _count_held_out(document, source, record.seq_len)
        if refused and not readings:
            raise refused
        return tuple(
            DocumentTrace(
                where,
                tokens,
                tuple(sorted(found, key=lambda one: (one.step, one.row))),
                held_out[where, tokens],
                steps_done,
            )
            for (where, tokens), found in readings.items()
        )

    def _find_readings(self, number: int, own: int, document: IndexedDocument) -> Iterator[Reading]:
        """Yield the readings of a document of source `own` in the sessions on this record."""
        record = self.data.records[number]
        windows = _find_windows(document, record.seq_len, record.trained[own].train)
        if not windows:
            return
        for session, steps in self._list_sessions():
            if session.data != number or not steps:
                continue
            first = session.list_samples(steps[0]).start
            last = session.list_samples(steps[-1]).stop
            for sample, epoch, window in self._invert(record, own, windows, first, last):
                step = session.find_step(sample)
                row = sample - session.list_samples(step).start
                micro_batch, rank = divmod(row // session.batch_size, session.world_size)
                start = window * record.seq_len
                part = _cut_document(document, start, start + record.seq_len + 1)
                yield Reading(step, epoch, row, rank, micro_batch, part.first, part.last)

    def _invert(
        self, record: DataRecord, own: int, windows: range, first: int, last: int
    ) -> Iterator[tuple[int, int, int]]:
        """Yield the samples from first to last - 1 of these windows, with epoch and window."""
        size = record.trained[own].train
        if record.shares:
            among = find_numbers(record.shares, own, range(first, last))
            epochs = range(among.start // size, -(-among.stop // size))
        else:
            epochs = range(first // size, (last - 1) // size + 1)
        own_windows = np.asarray(windows)
        for group in _split_range(epochs):
            numbers = np.empty((len(group), len(windows)), np.int64)
            for place, epoch in enumerate(group):
                purpose = name_order(own, epoch) if record.shares else f"order/{epoch}"
                order = invert_permutation(record.seed, purpose, size, own_windows)
                numbers[place] = epoch * size + order
            samples = numbers
            if record.shares:
                samples = find_positions(record.seed, record.shares, own, numbers.ravel())
                samples = samples.reshape(numbers.shape)
            rows, columns = np.nonzero((samples >= first) & (samples < last))
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
                yield int(samples[row, column]), group[row], windows[column]


def _split_range(numbers: range) -> Iterator[range]:
    """Split a range into parts of bounded length."""
    for start in range(numbers.start, numbers.stop, AT_ONCE):
        yield range(start, min(start + AT_ONCE, numbers.stop))


def _find_windows(document: IndexedDocument, seq_len: int, count: int) -> range:
    """The windows, of the first `count`, that have a token of a document as input or target."""
    first = max(0, -(-document.start // seq_len) - 1)
    return range(first, min(count, (document.stop - 1) // seq_len + 1))


def _count_held_out(document: IndexedDocument, source: SourceRecord, seq_len: int) -> int:
    """How many of a document's tokens are in the windows that the source holds out."""
    if not source.held_out:
        return 0
    first = source.train * seq_len
    last = first + source.held_out * seq_len + 1
    return max(0, min(document.stop, last) - max(document.start, first))


def _cut_document(document: IndexedDocument, start: int, stop: int) -> TracedPart:
    """The part of a document that tokens start to stop - 1 of its stream have."""
    first, last = max(document.start, start), min(document.stop, stop)
    size = document.stop - document.start
    return TracedPart(document.where, first - document.start, last - document.start, size)

"""Traces documents to the steps that read them, and steps to their documents.

A sample is a function of (seed, epoch, number), and this function can be inverted, so data.json
and the indexes of documents answer both questions without reading tokens.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

from hermes.data.document_index import (
    DocumentIndex,
    IndexedDocument,
    UnknownSourceError,
    parse_place,
)
from hermes.data.run_data import (
    DataRecord,
    RunData,
    SessionRecord,
    SourceRecord,
    open_source_index,
)
from hermes.data.sample_order import SampleOrder, Window, open_sample_order
from hermes.errors import DataError

__all__ = ["DocumentTrace", "Reading", "RunTrace", "TracedPart", "TracedSample"]


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
    readings are to come. absent: why no step reads it, and no validation; "" where one does.
    """

    where: str
    tokens: int
    readings: tuple[Reading, ...]
    held_out: int = 0
    steps_done: int = 0
    absent: str = ""

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


class RunTrace:
    """The samples of a run, by its folder's data.json. Raises DataError, StorageError."""

    def __init__(self, run: Path, data: RunData | None = None):
        self.run, self.data = run, data or RunData.read(run)
        if not self.data.sessions:
            raise DataError(f"{run} has made no step yet, so there is nothing to trace")

    @cached_property
    def _indexes(self) -> dict[SourceRecord, DocumentIndex]:
        return {}

    @cached_property
    def _orders(self) -> dict[DataRecord, SampleOrder]:
        return {}

    def _open(self, record: DataRecord, source: SourceRecord) -> DocumentIndex:
        if source not in self._indexes:
            self._indexes[source] = open_source_index(self.run, record, source)
        return self._indexes[source]

    def _open_order(self, record: DataRecord) -> SampleOrder:
        if record not in self._orders:
            self._orders[record] = open_sample_order(record, partial(self._open, record))
        return self._orders[record]

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
        """List the tokens of a step's samples, by row. Raises DataError, StorageError."""
        session = self.find_session(step)
        record = self.data.records[session.data]
        return self._open_order(record).list_windows(session.list_samples(step))

    def trace_step(self, step: int) -> tuple[TracedSample, ...]:
        """Find the documents of a step's rows. Raises DataError, StorageError."""
        session = self.find_session(step)
        record = self.data.records[session.data]
        found = []
        for row, window in enumerate(self.list_windows(step)):
            source = record.trained[window.source]
            documents = self._open(record, source).find_tokens(window.start, window.stop)
            parts = tuple(_cut_document(one, window) for one in documents)
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
        absent: dict[tuple[str, int], str] = {}
        refused: list[DataError] = []
        for number, record in enumerate(self.data.records):
            order = self._open_order(record)
            for own, source in enumerate((*record.trained, *filter(None, [record.validation]))):
                try:
                    documents = self._open(record, source).find_place(name, line)
                except DataError as error:
                    refused.append(error)
                    continue
                for document in documents:
                    key = document.where, document.stop - document.start
                    found = readings.setdefault(key, [])
                    if own < len(record.trained):
                        found += self._find_readings(number, own, document)
                    held_out[key] = order.count_held_out(source, document)
                    absent[key] = order.explain_absence(source, document)
        if refused and not readings:
            raise _choose_error(refused, name)
        return tuple(
            DocumentTrace(
                where,
                tokens,
                tuple(sorted(found, key=lambda one: (one.step, one.row))),
                held_out[where, tokens],
                steps_done,
                absent[where, tokens],
            )
            for (where, tokens), found in readings.items()
        )

    def _find_readings(self, number: int, own: int, document: IndexedDocument) -> Iterator[Reading]:
        """Yield the readings of a document of source `own` in the sessions on this record."""
        order = self._open_order(self.data.records[number])
        for session, steps in self._list_sessions():
            if session.data != number or not steps:
                continue
            first = session.list_samples(steps[0]).start
            last = session.list_samples(steps[-1]).stop
            for found in order.find_samples(own, document, range(first, last)):
                step = session.find_step(found.sample)
                row = found.sample - session.list_samples(step).start
                micro_batch, rank = divmod(row // session.batch_size, session.world_size)
                part = _cut_document(document, found.window)
                epoch = found.window.epoch
                yield Reading(step, epoch, row, rank, micro_batch, part.first, part.last)


def _choose_error(refused: Sequence[DataError], name: str) -> DataError:
    """The error of the source that has the name, of several; else that none has it."""
    known: dict[str, None] = {}
    for error in refused:
        if not isinstance(error, UnknownSourceError):
            return error
        known |= dict.fromkeys(error.known)
    return UnknownSourceError(name, list(known))


def _cut_document(document: IndexedDocument, window: Window) -> TracedPart:
    """The part of a document that a sample has."""
    first, last = max(document.start, window.start), min(document.stop, window.stop)
    size = document.stop - document.start
    return TracedPart(document.where, first - document.start, last - document.start, size)

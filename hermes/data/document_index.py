"""The index of a token stream's documents: found by number, by token, or by file and line.

An index file has 20 bytes for each document, in order. Of it is read what is asked for, and every
search is a bisection, so that one among millions of documents costs microseconds.
"""

import os
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.errors import DataError, StorageError, explain_os_error, suggest_nearest
from hermes.formatting import format_count
from hermes.process_limits import count_held_files
from hermes.storage.array_file import ArrayFile

__all__ = [
    "INDEX",
    "DocumentIndex",
    "IndexPart",
    "IndexSource",
    "IndexedDocument",
    "UnknownSourceError",
    "open_index_rows",
    "parse_place",
]


# Of each document that begins in a part: its first token there, its line, its source's number.
INDEX = np.dtype([("start", "<u8"), ("line", "<u8"), ("source", "<u4")])


@dataclass(frozen=True)
class IndexPart:
    """The documents of one file of tokens, and how many tokens the file has.

    open: opens their rows, of INDEX.
    """

    open: Callable[[], ArrayFile | NDArray[Any]]
    documents: int
    tokens: int


@dataclass(frozen=True)
class IndexSource:
    """A source of documents. exact: a document begins at its line and has no other lines."""

    name: str
    exact: bool = False


@dataclass(frozen=True)
class IndexedDocument:
    """A document: its source and line, and its tokens in the stream, from start up to stop."""

    number: int
    source: str
    line: int
    start: int
    stop: int

    @property
    def where(self) -> str:
        """Its place, as 'file:line'."""
        return f"{self.source}:{self.line}"


class UnknownSourceError(DataError):
    """No source of the data has this name. known: the names of sources that it may be of."""

    def __init__(self, name: str, known: Sequence[str]):
        few = f"; the data has {', '.join(known)}" if len(known) < 4 else ""
        super().__init__(f"{name} is not in the data{suggest_nearest(name, known) or few}")
        self.known = tuple(known)


class DocumentIndex:
    """The documents of a stream of `tokens` tokens, from 0 in their order."""

    def __init__(self, parts: Sequence[IndexPart], sources: Sequence[IndexSource]):
        held = tuple(parts)  # not by way of self, or files stay open until a collection
        self._parts, self.sources = held, tuple(sources)
        self._documents = [0, *accumulate(part.documents for part in parts)]
        self._tokens = [0, *accumulate(part.tokens for part in parts)]
        self._open = lru_cache(count_held_files())(lambda at: held[at].open())

    def __len__(self) -> int:
        return self._documents[-1]

    @property
    def tokens(self) -> int:
        """How many tokens the stream has."""
        return self._tokens[-1]

    def read(self, number: int) -> IndexedDocument:
        """Read a document's entry. number: from 0, below the length."""
        row, start = self._read_row(number)
        stop = self.tokens if number + 1 == len(self) else self._read_row(number + 1)[1]
        source = self.sources[int(row["source"])].name
        return IndexedDocument(number, source, int(row["line"]), start, stop)

    def _read_row(self, number: int) -> tuple[Any, int]:
        at = bisect_right(self._documents, number) - 1
        first = number - self._documents[at]
        (row,) = self._open(at)[first : first + 1]
        return row, self._tokens[at] + int(row["start"])

    def find_starts(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the first token of documents; of the number behind the last, the stream's end.

        (K,) -> (K,)
        """
        found = np.full(numbers.shape, self.tokens, np.int64)
        at = np.searchsorted(self._documents, numbers, side="right") - 1
        for part in np.unique(at[numbers < len(self)]).tolist():
            here = at == part
            rows = self._open(part).take(numbers[here] - self._documents[part])
            found[here] = rows["start"].astype(np.int64) + self._tokens[part]
        return found

    def read_lengths(self, first: int, stop: int) -> NDArray[np.int64]:
        """Read how many tokens documents first to stop - 1 have. -> (stop - first,)"""
        starts, last = [], min(stop + 1, len(self))
        for at in range(bisect_right(self._documents, first) - 1, len(self._parts)):
            before = self._documents[at]
            low, high = max(first - before, 0), min(last - before, self._parts[at].documents)
            if before >= last:
                break
            if low < high:
                rows = self._open(at)[low:high]
                starts.append(rows["start"].astype(np.int64) + self._tokens[at])
        if stop == len(self):
            starts.append(np.array([self.tokens]))
        bounds = np.concatenate(starts)
        return bounds[1:] - bounds[:-1]

    def find_tokens(self, start: int, stop: int) -> list[IndexedDocument]:
        """Find the documents that have some of the tokens start to stop - 1, in order."""
        first = bisect_right(range(len(self)), start, key=lambda n: self._read_row(n)[1]) - 1
        found: list[IndexedDocument] = []
        for number in range(max(first, 0), len(self)):
            document = self.read(number)
            if document.start >= stop:
                break
            if document.stop > start:
                found.append(document)
        return found

    def find_place(self, name: str, line: int) -> list[IndexedDocument]:
        """Find the documents of a place, one for each time that its source was given.

        name: the source's name, or the end of it. Raises DataError where there is none.
        """
        return [self._find_line(source, name, line) for source in self._match_sources(name)]

    def _match_sources(self, name: str) -> list[int]:
        """The numbers of the sources of a name. Raises DataError."""
        whole = os.path.abspath(name)
        equal = [
            number
            for number, source in enumerate(self.sources)
            if name == source.name or whole == os.path.abspath(source.name)
        ]
        if equal:
            return equal
        end = f"/{name}"
        ending = [n for n, source in enumerate(self.sources) if source.name.endswith(end)]
        names = sorted({self.sources[number].name for number in ending})
        if len(names) > 1:
            raise DataError(
                f"{name} is the end of {len(names)} names, such as {names[0]} and {names[1]}; "
                "give more of it"
            )
        if not ending:
            raise UnknownSourceError(name, [source.name for source in self.sources])
        return ending

    def _find_line(self, source: int, name: str, line: int) -> IndexedDocument:
        def key(number: int) -> tuple[int, int]:
            row, _ = self._read_row(number)
            return int(row["source"]), int(row["line"])

        number = bisect_right(range(len(self)), (source, line), key=key) - 1
        if number < 0 or key(number)[0] != source:
            raise DataError(f"{name} has no document that begins at line {line} or before it")
        found = self.read(number)
        if self.sources[source].exact and found.line != line:
            raise DataError(
                f"{name}:{line} is no document: it is empty, or was left out; the one before it "
                f"is {found.where}"
            )
        return found


def open_index_rows(path: Path, documents: int) -> ArrayFile:
    """Open an index file. Raises DataError for one of another size, StorageError."""
    try:
        size = path.stat().st_size
        if size != documents * INDEX.itemsize:
            raise DataError(
                f"{path}: {format_count(size, 'bytes')} where "
                f"{format_count(documents, 'documents take', 'document takes')} "
                f"{documents * INDEX.itemsize:,}; copy or prepare it again"
            )
    except OSError as error:
        raise StorageError(f"cannot read {path}: {explain_os_error(error)}") from error
    return ArrayFile(path, INDEX, documents)


def parse_place(text: str) -> tuple[str, int]:
    """Parse 'file:line'; without a line it is the first. -> name, line"""
    name, _, line = text.rpartition(":")
    return (name, int(line)) if name and line.isdecimal() else (text, 1)

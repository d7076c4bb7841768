"""Which documents of a stream have a row of their own: those that fit, counted but not listed.

Of every block of documents it is known how many fitted before it, so that the n-th is found among
1,024 lengths of the index, and memory does not grow with a table of all documents.
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hermes.data.document_index import DocumentIndex
from hermes.data.example_dataset import OVERLONG
from hermes.errors import DataError
from hermes.formatting import format_count

__all__ = ["FittedDocuments"]

BLOCK = 1024  # documents whose lengths are looked at to find one
READ = BLOCK * 1024  # whose lengths are read at a time, when all are counted
BLOCKS_KEPT = 64  # in memory


class FittedDocuments:
    """The documents of an index that have a target and fit a row of seq_len targets.

    overlong: what becomes of longer ones, as in `fit_examples`. silent: documents of a single
    token. dropped, cut: longer ones that were left out, or lost their end. lost: tokens of both.
    longest: of all documents, in tokens. Raises DataError.
    """

    def __init__(self, index: DocumentIndex, seq_len: int, overlong: str):
        if overlong not in OVERLONG:
            raise DataError(f"overlong is {overlong!r}; it must be one of {', '.join(OVERLONG)}")
        self.index, self.seq_len, self.overlong = index, seq_len, overlong
        self.silent = self.dropped = self.cut = self.lost = self.longest = 0
        self._room = seq_len + 1
        counts = [np.zeros(1, np.int64)]
        for lengths in self._read_all():
            counts.append(self._count(lengths))
        # How many fit before each block; without a table where all do.
        before = np.cumsum(np.concatenate(counts))
        self._size = int(before[-1])
        self._before = before if self._size < len(index) else None
        self._find_kept = lru_cache(BLOCKS_KEPT)(self._list_kept)
        long = self.dropped + self.cut
        if long and overlong == "error":
            raise DataError(
                f"{format_count(long, 'documents')} of {len(index):,} have more tokens than "
                f"--seq-len {seq_len} has room for, up to {self.longest:,}; choose a longer "
                "one, --overlong drop or truncate, or leave --no-pack out"
            )
        if not self._size:
            raise DataError(
                f"no document is left of {len(index):,}: each has more tokens than --seq-len "
                f"{seq_len} has room for, or a single one"
            )

    def _read_all(self) -> Iterator[NDArray[np.int64]]:
        for first in range(0, len(self.index), READ):
            yield self.index.read_lengths(first, min(first + READ, len(self.index)))

    def _count(self, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count what is kept and what is not of documents of these lengths. -> (blocks,)"""
        kept = self._is_kept(lengths)
        over = lengths[lengths > self._room]
        self.longest = max(self.longest, int(lengths.max(initial=0)))
        self.silent += int((lengths < 2).sum())
        self.lost += int(over.sum())
        if self.overlong == "truncate":
            self.cut += len(over)
            self.lost -= len(over) * self._room
        else:
            self.dropped += len(over)
        return np.add.reduceat(kept.astype(np.int64), np.arange(0, len(kept), BLOCK))

    def _is_kept(self, lengths: NDArray[np.int64]) -> NDArray[np.bool_]:
        longest = self._room if self.overlong != "truncate" else np.iinfo(np.int64).max
        kept: NDArray[np.bool_] = (lengths >= 2) & (lengths <= longest)
        return kept

    def __len__(self) -> int:
        return self._size

    def _list_kept(self, block: int) -> NDArray[np.int64]:
        first = block * BLOCK
        lengths = self.index.read_lengths(first, min(first + BLOCK, len(self.index)))
        return np.flatnonzero(self._is_kept(lengths)) + first

    def find_documents(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find the documents of these numbers among those that fit. (K,) -> (K,)"""
        if self._before is None:
            return numbers
        found = np.empty_like(numbers)
        blocks = np.searchsorted(self._before, numbers, side="right") - 1
        for block in np.unique(blocks).tolist():
            here = blocks == block
            found[here] = self._find_kept(block)[numbers[here] - self._before[block]]
        return found

    def find_number(self, document: int) -> int | None:
        """Find the number of a document among those that fit; None where it does not."""
        if self._before is None:
            return document
        block = document // BLOCK
        kept = self._find_kept(block)
        at = int(np.searchsorted(kept, document))
        fits = at < len(kept) and int(kept[at]) == document
        return int(self._before[block]) + at if fits else None

    def locate(self, numbers: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Find the first token of documents that fit, and how many a row has. (K,) -> 2 (K,)"""
        documents = self.find_documents(numbers)
        starts = self.index.find_starts(documents)
        lengths = self.index.find_starts(documents + 1) - starts
        return starts, np.minimum(lengths, self._room)

    def explain_absence(self, tokens: int) -> str:
        """Say why a document of `tokens` tokens has no row."""
        if tokens < 2:
            return "it has a single token, and so nothing to predict"
        row = format_count(self.seq_len, "targets")
        return f"--overlong drop leaves out what is longer than {row}"

    def describe(self) -> list[str]:
        """Sentences about what is not trained on, with its share of all tokens."""
        said = []
        share = f"{self.lost / max(self.index.tokens, 1):.1%} of all tokens"
        row = format_count(self.seq_len, "targets")
        if self.cut:
            many = f"documents longer than {row} are cut at the end"
            one = f"document longer than {row} is cut at the end"
            said.append(f"{format_count(self.cut, many, one)}: {share} are not trained on")
        if self.dropped:
            many = f"documents longer than {row} are left out"
            one = f"document longer than {row} is left out"
            said.append(f"{format_count(self.dropped, many, one)}: {share} are not trained on")
        if self.silent:
            many, one = "documents of one token are left out", "document of one token is left out"
            said.append(format_count(self.silent, many, one))
        return said

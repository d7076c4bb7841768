"""The dataset of text with one document in each row, padded; nothing of another is in a row.

A document of n tokens, its end of text among them, takes n - 1 positions: all but the last are
inputs, all but the first targets. Where each document begins is held in memory, 12 bytes each.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hermes.data.dataset import CountBytes, UpdateLayout
from hermes.data.example_dataset import OVERLONG
from hermes.data.example_rows import round_width
from hermes.data.order import Cursor, order_samples
from hermes.data.text_dataset import check_largest
from hermes.data.token_stream import TokenStream
from hermes.errors import DataError
from hermes.formatting import format_count
from hermes.interface import IGNORE, Batch, LossCounts
from hermes.numerics.randomness import permute

__all__ = ["DocumentDataset", "FittedDocuments", "find_documents"]

BLOCK = 1 << 22  # tokens looked through at a time
COUNTED = 1 << 20  # tokens whose bytes are counted at a time


def find_documents(stream: TokenStream, eos_id: int) -> NDArray[np.int64]:
    """Find where each document of a stream begins, and where the last one ends. -> (D + 1,)

    A document ends behind an end-of-text token, or with the stream.
    """
    size, parts = len(stream), [np.zeros(1, np.int64)]
    for start in range(0, size, BLOCK):
        block = np.asarray(stream.tokens[start : start + BLOCK])
        parts.append(np.flatnonzero(block == eos_id) + (start + 1))
    found = np.concatenate(parts)
    return found if found[-1] == size else np.append(found, size)


@dataclass(frozen=True)
class FittedDocuments:
    """The documents of a stream that have a target and fit a row of seq_len targets.

    starts, lengths (D,): in tokens. silent: documents of a single token. dropped, cut: documents
    longer than a row that were left out, or lost their end. lost: tokens of both.
    """

    stream: TokenStream
    starts: NDArray[np.int64]
    lengths: NDArray[np.int32]
    silent: int = 0
    dropped: int = 0
    cut: int = 0
    lost: int = 0

    @classmethod
    def fit(
        cls, stream: TokenStream, eos_id: int, seq_len: int, overlong: str
    ) -> "FittedDocuments":
        """Fit a stream's documents. overlong: as in `fit_examples`. Raises DataError."""
        if overlong not in OVERLONG:
            raise DataError(f"overlong is {overlong!r}; it must be one of {', '.join(OVERLONG)}")
        bounds = find_documents(stream, eos_id)
        starts, lengths, room = bounds[:-1], np.diff(bounds), seq_len + 1
        long, short = lengths > room, lengths < 2
        count = int(long.sum())
        if count and overlong == "error":
            raise DataError(
                f"{format_count(count, 'documents')} of {len(starts):,} have more tokens than "
                f"--seq-len {seq_len} has room for, up to {int(lengths.max()):,}; choose a longer "
                "one, --overlong drop or truncate, or leave --no-pack out"
            )
        lost = int(lengths[long].sum()) - (count * room if overlong == "truncate" else 0)
        kept = ~short if overlong == "truncate" else ~(short | long)
        dropped, cut = (0, count) if overlong == "truncate" else (count, 0)
        if not kept.any():
            raise DataError(
                f"no document is left of {len(starts):,}: each has more tokens than --seq-len "
                f"{seq_len} has room for, or a single one"
            )
        fitted = np.minimum(lengths[kept], room).astype(np.int32)
        return cls(stream, starts[kept], fitted, int(short.sum()), dropped, cut, lost)

    def __len__(self) -> int:
        return len(self.starts)

    def describe(self, seq_len: int) -> list[str]:
        """Sentences about what is not trained on, with its share of all tokens."""
        said = []
        share = f"{self.lost / max(len(self.stream), 1):.1%} of all tokens"
        if self.cut:
            many = f"documents longer than {seq_len} targets are cut at the end"
            one = f"document longer than {seq_len} targets is cut at the end"
            said.append(f"{format_count(self.cut, many, one)}: {share} are not trained on")
        if self.dropped:
            many = f"documents longer than {seq_len} targets are left out"
            one = f"document longer than {seq_len} targets is left out"
            said.append(f"{format_count(self.dropped, many, one)}: {share} are not trained on")
        if self.silent:
            many, one = "documents of one token are left out", "document of one token is left out"
            said.append(format_count(self.silent, many, one))
        return said

    def read(self, number: int) -> NDArray[np.unsignedinteger]:
        """Read the tokens of a document. Raises DataError where one of them is damaged."""
        start = int(self.starts[number])
        return self.stream.read(start, start + int(self.lengths[number]))


class DocumentDataset:
    """Batches of text, a document a row; a sample is a document.

    validation: held-out text of its own; without it a share of the documents, chosen by the seed,
    is held out. overlong: what becomes of documents longer than a row. train and held_out: numbers
    of documents, in the order that the seed chooses. Raises DataError.
    """

    def __init__(
        self,
        stream: TokenStream,
        *,
        seq_len: int,
        vocab_size: int,
        eos_id: int | None,
        seed: int = 0,
        val_fraction: float = 0.0,
        validation: TokenStream | None = None,
        overlong: str = "error",
    ):
        check_largest([stream, *([validation] if validation else [])], vocab_size)
        if eos_id is None:
            raise DataError("--no-pack needs a tokenizer with a token that ends a text")
        self.seq_len, self.seed = seq_len, seed
        self.documents = FittedDocuments.fit(stream, eos_id, seq_len, overlong)
        size = len(self.documents)
        held_out = max(1, round(size * val_fraction)) if val_fraction > 0 else 0
        if size < 1 + (held_out > 0):
            raise DataError(
                f"the data has {format_count(size, 'documents')}; at least two are needed, one to "
                "train on and one to hold out"
            )
        held_out = min(held_out, size - 1)
        self.train, self.held_out = range(size - held_out), range(size - held_out, size)
        self._validation = self.documents
        if validation is not None:
            if val_fraction:
                raise DataError("--val-data and --val-fraction are given; keep one of them")
            self._validation = FittedDocuments.fit(validation, eos_id, seq_len, overlong)
            self.held_out = range(len(self._validation))

    @property
    def has_own_validation(self) -> bool:
        """Whether what is held out is not from the stream to train on."""
        return self._validation is not self.documents

    def describe(self) -> list[str]:
        """Sentences about what is not trained on, and not validated on."""
        said = self.documents.describe(self.seq_len)
        if self.has_own_validation:
            said += [f"validation: {one}" for one in self._validation.describe(self.seq_len)]
        return said

    def _choose(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """The documents of samples of the data to train on: a keyed permutation's first ones."""
        return permute(self.seed, "held-out", len(self.documents), numbers)

    def _choose_held_out(self, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return numbers if self.has_own_validation else self._choose(numbers)

    def draw_batch(
        self,
        cursor: Cursor,
        *,
        samples: int,
        micro_batch: int,
        accum: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> tuple[Batch, Cursor]:
        """Draw this rank's share of the next `samples` documents; return it and the next cursor."""
        if not 1 <= samples <= micro_batch * accum * world_size:
            raise DataError(
                f"{samples} samples do not fit a step of {micro_batch * accum * world_size} rows"
            )
        taken = order_samples(self.seed, cursor, samples, len(self.train))
        layout = UpdateLayout.build(samples, micro_batch, accum, rank, world_size)
        batch = self._make_batch(self.documents, self._choose(taken), layout)
        return batch, cursor.advance(samples, len(self.train))

    def iterate_validation(
        self, micro_batch: int, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Yield every held-out document once; as many batches on every rank."""
        numbers = self._choose_held_out(np.array(self.held_out, np.int64))
        for start in range(0, len(numbers), micro_batch * world_size):
            taken = numbers[start : start + micro_batch * world_size]
            layout = UpdateLayout.build(len(taken), micro_batch, 1, rank, world_size)
            yield self._make_batch(self._validation, taken, layout)

    def count_validation_bytes(self, count_bytes: CountBytes) -> int:
        """Count the bytes of text in the held-out targets."""
        total, held, size = 0, list[NDArray[np.unsignedinteger]](), 0
        for number in self._choose_held_out(np.array(self.held_out, np.int64)).tolist():
            held.append(self._validation.read(number))
            size += len(held[-1])
            if size >= COUNTED:
                total, held, size = total + _count_targets(held, count_bytes), [], 0
        return total + _count_targets(held, count_bytes)

    def _make_batch(
        self, documents: FittedDocuments, taken: NDArray[np.int64], layout: UpdateLayout
    ) -> Batch:
        # Of the rows of all ranks, so that any split of a step has the same shapes.
        targets_of_rows = documents.lengths[taken] - 1
        width = round_width(int(targets_of_rows.max()), self.seq_len)
        shape = (layout.rows.size, width)
        tokens, targets = np.zeros(shape, np.int32), np.full(shape, IGNORE, np.int32)
        rows = zip(layout.rows.ravel().tolist(), layout.real.ravel().tolist(), strict=True)
        for row, (number, real) in enumerate(rows):
            if real:
                ids = documents.read(int(taken[number]))
                tokens[row, : len(ids) - 1], targets[row, : len(ids) - 1] = ids[:-1], ids[1:]
        count = int(targets_of_rows.sum())
        shape = (*layout.rows.shape, width)
        return Batch(
            tokens.reshape(shape),
            targets.reshape(shape),
            layout.rows.astype(np.uint32),
            global_counts=LossCounts(count, count),
        )


def _count_targets(
    documents: Sequence[NDArray[np.unsignedinteger]], count_bytes: CountBytes
) -> int:
    """The bytes of all tokens of documents but each one's first."""
    if not documents:
        return 0
    counted = np.ones(sum(map(len, documents)), np.bool_)
    counted[np.cumsum([0, *map(len, documents[:-1])])] = False
    return count_bytes(np.concatenate(documents), counted)

"""The dataset of text with one document in each row, padded; nothing of another is in a row.

A document of n tokens, its end of text among them, takes n - 1 positions: all but the last are
inputs, all but the first targets. Where each document begins is read from the stream's index.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hermes.data.dataset import CountBytes, UpdateLayout
from hermes.data.example_rows import round_width
from hermes.data.fitted_documents import FittedDocuments
from hermes.data.order import Cursor, order_samples
from hermes.data.stream_index import open_stream_index
from hermes.data.text_dataset import check_largest
from hermes.data.token_stream import TokenStream
from hermes.errors import DataError
from hermes.formatting import format_count
from hermes.interface import IGNORE, Batch, LossCounts
from hermes.numerics.randomness import permute

__all__ = ["DocumentDataset"]

COUNTED = 1 << 20  # tokens whose bytes are counted at a time


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
        self.stream, self.validation = stream, stream if validation is None else validation
        self.documents = FittedDocuments(open_stream_index(stream, eos_id), seq_len, overlong)
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
            own = open_stream_index(validation, eos_id)
            self._validation = FittedDocuments(own, seq_len, overlong)
            self.held_out = range(len(self._validation))

    @property
    def has_own_validation(self) -> bool:
        """Whether what is held out is not from the stream to train on."""
        return self.validation is not self.stream

    def describe(self) -> list[str]:
        """Sentences about what is not trained on, and not validated on."""
        said = self.documents.describe()
        if self.has_own_validation:
            said += [f"validation: {one}" for one in self._validation.describe()]
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
        taken = order_samples(self.seed, cursor, samples, len(self.train))
        layout = UpdateLayout.build(samples, micro_batch, accum, rank, world_size)
        batch = self._make_batch(self.stream, self.documents, self._choose(taken), layout)
        return batch, cursor.advance(samples, len(self.train))

    def iterate_validation(
        self, micro_batch: int, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Yield every held-out document once; as many batches on every rank."""
        numbers = self._choose_held_out(np.array(self.held_out, np.int64))
        for start in range(0, len(numbers), micro_batch * world_size):
            taken = numbers[start : start + micro_batch * world_size]
            layout = UpdateLayout.build(len(taken), micro_batch, 1, rank, world_size)
            yield self._make_batch(self.validation, self._validation, taken, layout)

    def count_validation_bytes(self, count_bytes: CountBytes) -> int:
        """Count the bytes of text in the held-out targets."""
        total, held, size = 0, list[NDArray[np.unsignedinteger]](), 0
        chosen = self._choose_held_out(np.array(self.held_out, np.int64))
        for start, length in zip(*self._validation.locate(chosen), strict=True):
            held.append(self.validation.read(int(start), int(start + length)))
            size += len(held[-1])
            if size >= COUNTED:
                total, held, size = total + _count_targets(held, count_bytes), [], 0
        return total + _count_targets(held, count_bytes)

    def _make_batch(
        self,
        stream: TokenStream,
        documents: FittedDocuments,
        taken: NDArray[np.int64],
        layout: UpdateLayout,
    ) -> Batch:
        starts, lengths = documents.locate(taken)
        # Of the rows of all ranks, so that any split of a step has the same shapes.
        targets_of_rows = lengths - 1
        width = round_width(int(targets_of_rows.max()), self.seq_len)
        shape = (layout.rows.size, width)
        tokens, targets = np.zeros(shape, np.int32), np.full(shape, IGNORE, np.int32)
        rows = zip(layout.rows.ravel().tolist(), layout.real.ravel().tolist(), strict=True)
        for row, (number, real) in enumerate(rows):
            if real:
                start = int(starts[number])
                ids = stream.read(start, start + int(lengths[number]))
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

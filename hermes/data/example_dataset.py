"""The dataset of examples for finetuning: packed several to a row, or one per row.

An example of N tokens takes N - 1 positions of a row: all but the last token are inputs, all but
the first are targets, so no example's last token predicts another's first. In a packed row every
example is a segment; attention and positions do not cross segments.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hermes.chat_templates.example import Example
from hermes.data.dataset import CountBytes, UpdateLayout
from hermes.data.example_rows import (
    fill_rows,
    fill_weights,
    pack_rows,
    round_width,
    sum_weights,
)
from hermes.data.order import Cursor, order_samples
from hermes.errors import DataError
from hermes.interface import Batch, LossCounts
from hermes.numerics.randomness import permute

__all__ = [
    "ExampleDataset",
    "FittedExamples",
    "check_ids",
    "fit_examples",
    "group_examples",
    "hash_examples",
    "split_examples",
]

OVERLONG = ("error", "drop", "truncate")


def split_examples(size: int, val_fraction: float, seed: int) -> tuple[list[int], list[int]]:
    """Split the numbers of `size` examples into those to train on and those held out.

    A function of (seed, size) alone; with val_fraction above 0 at least one example is held out.
    Raises DataError where there are too few.
    """
    count = max(1, round(size * val_fraction)) if val_fraction > 0 else 0
    if size < 1 + (count > 0):
        both = "two, one to train on and one to hold out" if count else "one"
        found = "one example" if size else "no examples"
        raise DataError(f"the data has {found}; at least {both} is needed")
    order = permute(seed, "held-out", size, np.arange(size))
    held_out = set(order[: min(count, size - 1)].tolist())
    return [i for i in range(size) if i not in held_out], sorted(held_out)


def group_examples(examples: Sequence[Example]) -> list[list[int]]:
    """Group the numbers of examples by conversation, so that none is half held out."""
    groups: list[list[int]] = []
    for i, example in enumerate(examples):
        if i and example.part and example.where == examples[i - 1].where:
            groups[-1].append(i)
        else:
            groups.append([i])
    return groups


@dataclass(frozen=True)
class FittedExamples:
    """Examples that fit a row, and how many were dropped or truncated."""

    examples: tuple[Example, ...]
    dropped: int = 0
    cut: int = 0


def fit_examples(
    examples: Iterable[Example], seq_len: int, overlong: str = "error"
) -> FittedExamples:
    """Keep the examples of at most seq_len + 1 tokens; `overlong` says what to do with others.

    'error' refuses them, 'drop' drops them, 'truncate' keeps their beginning if that has a target.
    Raises DataError, also where no example is left.
    """
    if overlong not in OVERLONG:
        raise DataError(f"overlong is {overlong!r}; it must be one of {', '.join(OVERLONG)}")
    kept, dropped, cut = [], 0, 0
    for example in examples:
        if len(example) <= seq_len + 1:
            kept.append(example)
            continue
        if overlong == "error":
            raise DataError(
                f"{example.where}: {len(example)} tokens, more than --seq-len {seq_len} has room "
                "for; choose a longer one, or --overlong drop or truncate"
            )
        mask = example.loss_mask[: seq_len + 1]
        if overlong == "truncate" and mask.any():
            weights = None if example.weights is None else example.weights[: seq_len + 1]
            ids = example.ids[: seq_len + 1]
            kept.append(replace(example, ids=ids, loss_mask=mask, weights=weights))
            cut += 1
        else:
            dropped += 1
    if not kept:
        raise DataError(f"no example is left: all {dropped} are longer than --seq-len {seq_len}")
    return FittedExamples(tuple(kept), dropped, cut)


class ExampleDataset:
    """Batches of examples; a sample is a row of one example or, packed, of several.

    train and held_out: the rows' numbers. fingerprint: of tokens, loss masks and weights. weighted:
    whether targets have weights, which count in training and not in validation. Raises DataError
    where a token id is outside the model's vocabulary.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        *,
        seq_len: int,
        vocab_size: int,
        pack: bool = True,
        seed: int = 0,
        val_fraction: float = 0.0,
    ):
        check_ids(examples, vocab_size)
        self.seq_len, self.seed, self.pack = seq_len, seed, pack
        self.fingerprint = hash_examples(examples)
        self._tokens = sum(map(len, examples))
        self.weighted = any(example.weights is not None for example in examples)
        groups = group_examples(examples)
        training, out = (
            [i for number in numbers for i in groups[number]]
            for numbers in split_examples(len(groups), val_fraction, seed)
        )
        rows = self._arrange_rows(examples, training)
        self.train = range(len(rows))
        self._rows = [*rows, *self._arrange_rows(examples, out)]
        self.held_out = range(len(rows), len(self._rows))

    def __len__(self) -> int:
        return self._tokens

    def iterate_examples(self, rows: Iterable[int]) -> Iterator[Example]:
        """Yield the examples of rows by the numbers in `train` and `held_out`."""
        return (example for row in rows for example in self._rows[row])

    def _arrange_rows(
        self, examples: Sequence[Example], chosen: Sequence[int]
    ) -> list[list[Example]]:
        if not self.pack:
            return [[examples[i]] for i in chosen]
        rows = pack_rows([len(examples[i]) - 1 for i in chosen], self.seq_len)
        return [[examples[chosen[i]] for i in row] for row in rows]

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
        """Draw this rank's share of the next `samples` rows; return it and the next cursor."""
        taken = order_samples(self.seed, cursor, samples, len(self.train))
        layout = UpdateLayout.build(samples, micro_batch, accum, rank, world_size)
        return self._make_batch(taken, layout, self.weighted), cursor.advance(
            samples, len(self.train)
        )

    def iterate_validation(
        self, micro_batch: int, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Yield every held-out row once, in order."""
        numbers = np.array(self.held_out, np.int64)
        for start in range(0, len(numbers), micro_batch * world_size):
            taken = numbers[start : start + micro_batch * world_size]
            yield self._make_batch(
                taken, UpdateLayout.build(len(taken), micro_batch, 1, rank, world_size)
            )

    def count_validation_bytes(self, count_bytes: CountBytes) -> int:
        """Count the bytes of text in the held-out targets."""
        held_out = self.iterate_examples(self.held_out)
        return sum(count_bytes(example.ids, example.loss_mask) for example in held_out)

    def close(self) -> None:
        """Do nothing: the examples are in memory."""

    def _make_batch(
        self, taken: NDArray[np.int64], layout: UpdateLayout, weighted: bool = False
    ) -> Batch:
        own_rows = [
            self._rows[taken[row]] if real else []
            for row, real in zip(layout.rows.flat, layout.real.flat, strict=True)
        ]
        # Over the rows of all ranks, so that any split of a step has the same shapes, and therefore
        # the same dropout masks.
        all_rows = [self._rows[number] for number in taken]
        longest = max(sum(len(example) - 1 for example in row) for row in all_rows)
        count = sum(int(example.loss_mask[1:].sum()) for row in all_rows for example in row)
        width = self.seq_len if self.pack else round_width(longest, self.seq_len)
        shape = (*layout.rows.shape, width)
        tokens, targets, segments = (part.reshape(shape) for part in fill_rows(own_rows, width))
        rows = layout.rows.astype(np.uint32)
        kept = segments if self.pack else None
        weights, total = None, None
        if weighted:
            weights = fill_weights(own_rows, width).reshape(shape)
            total = sum(sum_weights(example) for row in all_rows for example in row)
        counts = LossCounts(count, count, total)
        return Batch(tokens, targets, rows, kept, global_counts=counts, weights=weights)


def check_ids(examples: Iterable[Example], vocab_size: int) -> None:
    """Raise DataError where a token id is outside the model's vocabulary."""
    for example in examples:
        largest = int(example.ids.max())
        if largest >= vocab_size:
            raise DataError(
                f"{example.where}: token id {largest} is outside the model's vocabulary of "
                f"{vocab_size}; use the tokenizer that belongs to the model"
            )


def hash_examples(examples: Iterable[Example]) -> str:
    """Compute a SHA-256 over tokens, loss masks, and weights where there are any."""
    digest = hashlib.sha256()
    for example in examples:
        digest.update(len(example).to_bytes(8, "little"))
        digest.update(example.ids.astype("<i4").tobytes())
        digest.update(np.packbits(example.loss_mask).tobytes())
        if example.weights is not None:
            digest.update(example.weights.astype("<f4").tobytes())
    return digest.hexdigest()

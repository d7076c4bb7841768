"""The dataset of text for pretraining: windows of a token stream."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hermes.data.dataset import CountBytes, UpdateLayout, count_target_bytes
from hermes.data.order import Cursor, order_samples, split_windows
from hermes.data.token_stream import TokenStream
from hermes.errors import DataError
from hermes.interface import IGNORE, Batch, LossCounts

__all__ = ["TextDataset", "check_largest", "make_text_batch"]


def check_largest(streams: Sequence[TokenStream], vocab_size: int) -> None:
    """Raise DataError where a stream has a token id outside the model's vocabulary."""
    for one in streams:
        if one.largest >= vocab_size:
            raise DataError(
                f"the data has token id {one.largest}, outside the model's vocabulary of "
                f"{vocab_size}; use the tokenizer that belongs to the model"
            )


class TextDataset:
    """Batches of windows of a token stream; a sample is a window of seq_len targets.

    validation: held-out text of its own; without it the last part of the stream is held out.
    document_mask: attention and positions stay inside each document, which ends with `eos_id`, and
    its last token has no target. name: of the stream in errors. train and held_out: the windows'
    numbers. Raises DataError where a stream is too short, or has a token id outside the model's
    vocabulary, which not every device checks.
    """

    def __init__(
        self,
        stream: TokenStream,
        *,
        seq_len: int,
        vocab_size: int,
        seed: int = 0,
        val_fraction: float = 0.0,
        validation: TokenStream | None = None,
        document_mask: bool = False,
        eos_id: int | None = None,
        name: str = "the text",
    ):
        check_largest([stream, *([validation] if validation else [])], vocab_size)
        self.stream, self.validation = stream, validation or stream
        self.seq_len = seq_len
        self.seed = seed
        if document_mask and eos_id is None:
            raise DataError("--document-mask needs a tokenizer with a token that ends a text")
        self.mask_id = eos_id if document_mask else None
        self.train, self.held_out = split_windows(len(stream), val_fraction, seq_len, name)
        if validation is not None:
            if val_fraction:
                raise DataError("--val-data and --val-fraction are given; keep one of them")
            held_out, _ = split_windows(len(validation), 0.0, seq_len, "the validation text")
            self.held_out = held_out

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
        """Draw this rank's share of the next `samples` windows; return it and the next cursor.

        The last step of a run may have fewer samples than rows: rows without one have no targets,
        so that shapes never change. Raises DataError where there are more samples than rows.
        """
        taken = order_samples(self.seed, cursor, samples, len(self.train))
        batch = self._make_batch(self.stream, taken, micro_batch, accum, rank, world_size)
        return batch, cursor.advance(samples, len(self.train))

    def iterate_validation(
        self, micro_batch: int, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Yield every held-out window once, in order; as many batches on every rank."""
        for first in self.held_out[:: micro_batch * world_size]:
            last = min(first + micro_batch * world_size, self.held_out.stop)
            taken = np.arange(first, last, dtype=np.int64)
            yield self._make_batch(self.validation, taken, micro_batch, 1, rank, world_size)

    def count_validation_bytes(self, count_bytes: CountBytes) -> int:
        """Count the bytes of text in the held-out targets.

        Bits per byte are the targets' nats / (ln 2 * bytes).
        """
        first = self.held_out.start * self.seq_len
        stop = first + len(self.held_out) * self.seq_len + 1
        return count_target_bytes(self.validation, first, stop, count_bytes, self.mask_id)

    def _make_batch(
        self,
        stream: TokenStream,
        taken: NDArray[np.int64],
        micro_batch: int,
        accum: int,
        rank: int,
        world_size: int,
    ) -> Batch:
        layout = UpdateLayout.build(len(taken), micro_batch, accum, rank, world_size)
        windows = self.read_windows(taken[np.where(layout.real, layout.rows, 0)], stream)
        return make_text_batch(windows, layout, len(taken), self.mask_id)

    def read_windows(
        self, numbers: NDArray[np.int64], stream: TokenStream | None = None
    ) -> NDArray[np.int32]:
        """Read windows of a stream, of the one to train on if None. (...) -> (..., T + 1)

        Raises DataError where a token is damaged.
        """
        chosen = stream or self.stream
        tokens, width = chosen.tokens, self.seq_len + 1
        starts = (numbers * self.seq_len).ravel().tolist()
        windows = np.empty((len(starts), width), np.int32)
        for row, start in enumerate(starts):
            windows[row] = tokens[start : start + width]
        chosen.check_ids(windows)
        return windows.reshape(*numbers.shape, width)


def make_text_batch(
    windows: NDArray[np.int32], layout: UpdateLayout, samples: int, mask_id: int | None
) -> Batch:
    """Make a batch of windows (A, B, T + 1); rows without a sample have no targets.

    mask_id: the token that ends a document, where attention stays inside each; else None.
    """
    tokens, targets = windows[..., :-1].copy(), windows[..., 1:].copy()
    if not layout.real.all():
        tokens[~layout.real], targets[~layout.real] = 0, IGNORE
    numbers = layout.rows.astype(np.uint32)
    if mask_id is None:
        count = samples * tokens.shape[-1]
        return Batch(tokens, targets, numbers, global_counts=LossCounts(count, count))
    # An end of text is the last token of its document, so what follows it is not its target.
    ends = tokens == mask_id
    targets[ends] = IGNORE
    segments = (np.cumsum(ends, axis=-1) - ends).astype(np.int32)
    return Batch(tokens, targets, numbers, segments)

"""A run's batches: the samples of an update, shaped for a backend, and those held out."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from hermes.data.order import Cursor, order_samples, split_windows
from hermes.data.token_stream import TokenStream
from hermes.errors import DataError
from hermes.interface import IGNORE, Batch, LossCounts

__all__ = ["TextDataset"]


class TextDataset:
    """Samples of seq_len tokens from a stream: `train` and `held_out` are their numbers.

    Raises DataError where the stream is too short, or has an id that the model has no row for:
    frameworks do not check that on every device.
    """

    def __init__(
        self,
        stream: TokenStream,
        *,
        seq_len: int,
        vocab_size: int,
        seed: int = 0,
        val_fraction: float = 0.0,
    ):
        if stream.largest >= vocab_size:
            raise DataError(
                f"the data has token id {stream.largest}, outside the model's vocabulary of "
                f"{vocab_size}; use the tokenizer that belongs to the model"
            )
        self.stream = stream
        self.seq_len = seq_len
        self.seed = seed
        self.train, self.held_out = split_windows(len(stream), val_fraction, seq_len)

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
        """This process's share of the update that takes the next `samples`, and what comes after.

        Row b of micro-batch a in process `rank` is sample (a * world + rank) * micro_batch + b of
        the update, however it is split. The last update of a run may have fewer samples than rows;
        rows without one count for nothing, so that shapes never change.
        """
        if not 1 <= samples <= micro_batch * accum * world_size:
            raise DataError(
                f"{samples} samples do not fit an update of {micro_batch * accum * world_size} rows"
            )
        taken = order_samples(self.seed, cursor, samples, len(self.train))
        batch = self._make_batch(taken, micro_batch, accum, rank, world_size)
        return batch, cursor.advance(samples, len(self.train))

    def iterate_validation(
        self, micro_batch: int, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Every sample held out, once, in order; as many batches on every rank."""
        held_out = np.array(self.held_out, np.int64)
        for start in range(0, len(held_out), micro_batch * world_size):
            taken = held_out[start : start + micro_batch * world_size]
            yield self._make_batch(taken, micro_batch, 1, rank, world_size)

    def count_validation_bytes(self, byte_lengths: NDArray[np.integer]) -> int:
        """Bytes of text that the held-out targets stand for; byte_lengths: of each id.

        Bits per byte are the nats of all these targets / (ln 2 * bytes).
        """
        first = self.held_out.start * self.seq_len + 1
        targets = self.stream.tokens[first : first + len(self.held_out) * self.seq_len]
        counts = np.bincount(targets, minlength=len(byte_lengths))
        return int(counts @ np.asarray(byte_lengths, np.int64))

    def _make_batch(
        self, taken: NDArray[np.int64], micro_batch: int, accum: int, rank: int, world_size: int
    ) -> Batch:
        micro = np.arange(accum)[:, None] * world_size + rank
        rows = micro * micro_batch + np.arange(micro_batch)[None, :]  # (A, B)
        real = rows < len(taken)
        starts = taken[np.where(real, rows, 0)] * self.seq_len
        windows = self.stream.tokens[starts[..., None] + np.arange(self.seq_len + 1)]
        windows = windows.astype(np.int32)  # (A, B, T + 1)
        targets = np.where(real[..., None], windows[..., 1:], IGNORE).astype(np.int32)
        tokens = np.where(real[..., None], windows[..., :-1], 0).astype(np.int32)
        count = len(taken) * self.seq_len
        return Batch(
            tokens, targets, rows.astype(np.uint32), global_counts=LossCounts(count, count)
        )

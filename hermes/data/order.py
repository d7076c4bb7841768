"""The data order: which samples a step takes, as a function of (seed, epoch, number) alone."""

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from hermes.errors import DataError
from hermes.formatting import format_count
from hermes.numerics.randomness import permute

__all__ = ["Cursor", "count_run_samples", "order_samples", "split_windows"]

BLOCK = 1024  # samples ordered at a time


@dataclass(frozen=True)
class Cursor:
    """The position of a run's next sample: number `sample` of epoch `epoch`, both from 0."""

    epoch: int = 0
    sample: int = 0

    def count_samples(self, size: int) -> int:
        """Count the samples before this position, in epochs of `size` samples."""
        return self.epoch * size + self.sample

    def advance(self, count: int, size: int) -> "Cursor":
        """Move `count` samples on, into later epochs where this one ends."""
        return Cursor(*divmod(self.count_samples(size) + count, size))


def order_samples(seed: int, cursor: Cursor, count: int, size: int) -> NDArray[np.int64]:
    """Order the next `count` samples of range(size), across ends of epochs. -> (count,)

    Each epoch is a permutation of its own, in which every sample comes once. Raises DataError
    where the cursor is outside the data.
    """
    if not 0 <= cursor.sample < size or cursor.epoch < 0:
        raise DataError(
            f"sample {cursor.sample} of epoch {cursor.epoch} is not in data of "
            f"{format_count(size, 'samples')} an epoch; resume with the data that the run began "
            "with"
        )
    parts = []
    while count > 0:
        start = cursor.sample % BLOCK
        block = _order_block(seed, cursor.epoch, size, cursor.sample // BLOCK)
        parts.append(block[start : start + count])
        cursor, count = cursor.advance(len(parts[-1]), size), count - len(parts[-1])
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


@lru_cache(16)
def _order_block(seed: int, epoch: int, size: int, block: int) -> NDArray[np.int64]:
    """The order of an epoch's samples from number block * BLOCK on: many at once cost as few do."""
    positions = np.arange(block * BLOCK, min(size, (block + 1) * BLOCK))
    found = permute(seed, f"order/{epoch}", size, positions)
    found.flags.writeable = False
    return found


def split_windows(
    tokens: int, val_fraction: float, seq_len: int, what: str = "the text"
) -> tuple[range, range]:
    """Split a text of `tokens` into windows to train on and windows held out, its last part.

    A window is seq_len + 1 tokens long and starts seq_len after the one before, so every token but
    the first is a target once per epoch; tokens after the last whole window are unused. With
    val_fraction above 0 at least one window is held out. what: its name in errors. Raises DataError
    where there are too few.
    """
    samples = max(0, (tokens - 1) // seq_len)
    held_out = max(1, round(samples * val_fraction)) if val_fraction > 0 else 0
    least = 1 + (held_out > 0)
    if samples < least:
        both = " (one to train on, one to hold out)" if held_out else ""
        raise DataError(
            f"{what} has {format_count(tokens, 'tokens')}; {format_count(least, 'sequences')} of "
            f"{seq_len} need{'s' * (least == 1)} {least * seq_len + 1}{both}: give more text or a "
            "shorter --seq-len"
        )
    held_out = min(held_out, samples - 1)
    return range(samples - held_out), range(samples - held_out, samples)


def count_run_samples(size: int, *, epochs: float, max_steps: int, per_update: int) -> int:
    """Count the samples of a run: those of max_steps steps, or where it is 0 of the epochs.

    The run has this over per_update steps, rounded up: the last step may have fewer samples.
    """
    return max_steps * per_update if max_steps else max(1, math.floor(size * epochs + 0.5))

"""What every dataset offers the loop: numbered samples, laid out into the updates of a run."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hermes.data.order import Cursor
from hermes.interface import Batch

__all__ = ["Dataset", "TokenSource"]


class Dataset(Protocol):
    """Where batches come from: numbered samples to train on, and some held out."""

    train: range
    held_out: range

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
        """The update that takes the next `samples`, and the cursor behind it."""
        ...

    def iterate_validation(
        self, micro_batch: int, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Every sample held out, once."""
        ...

    def count_validation_bytes(self, byte_lengths: NDArray[np.integer]) -> int:
        """Bytes of text that the held-out targets stand for."""
        ...


class TokenSource(Protocol):
    """The tokens that samples are made of."""

    @property
    def fingerprint(self) -> str:
        """Equal ones mean equal data."""
        ...

    def __len__(self) -> int: ...

    def close(self) -> None:
        """Let go of them."""
        ...


@dataclass(frozen=True)
class UpdateLayout:
    """Where an update's samples go: numbers (A, B) within the update, and which are there."""

    rows: NDArray[np.int64]
    real: NDArray[np.bool_]

    @classmethod
    def build(
        cls, samples: int, micro_batch: int, accum: int, rank: int, world_size: int
    ) -> "UpdateLayout":
        """Row b of micro-batch a in process `rank` is sample (a * world + rank) * B + b."""
        micro = np.arange(accum)[:, None] * world_size + rank
        rows = micro * micro_batch + np.arange(micro_batch)[None, :]
        return cls(rows, rows < samples)

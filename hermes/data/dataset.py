"""The dataset protocol: numbered samples, drawn as the batches of optimizer steps."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hermes.data.order import Cursor
from hermes.errors import DataError
from hermes.formatting import format_count
from hermes.interface import Batch

__all__ = [
    "CountBytes",
    "Dataset",
    "JoinedSource",
    "ReadableTokens",
    "TokenSource",
    "UpdateLayout",
    "count_target_bytes",
]

COUNTED = 1 << 20  # tokens whose bytes are counted at a time

# Counts the bytes of text of ids, of those alone for which the second array is True: (N,), (N,).
CountBytes = Callable[[NDArray[np.integer], NDArray[np.bool_]], int]


class Dataset(Protocol):
    """Samples to train on and samples held out for validation, numbered from 0."""

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
        """Draw this rank's share of a step's `samples`; return its batch and the next cursor.

        Row b of micro-batch a on `rank` is sample (a * world_size + rank) * micro_batch + b of the
        step, so that any split of a step over ranks and micro-batches has the same samples.
        """
        ...

    def iterate_validation(
        self, micro_batch: int, *, rank: int = 0, world_size: int = 1
    ) -> Iterator[Batch]:
        """Yield every held-out sample once, as batches of this rank."""
        ...

    def count_validation_bytes(self, count_bytes: CountBytes) -> int:
        """Count the bytes of text in the held-out targets."""
        ...


class TokenSource(Protocol):
    """The tokens that a dataset's samples are made of."""

    @property
    def fingerprint(self) -> str:
        """A hash of the tokens: equal fingerprints mean equal data."""
        ...

    def __len__(self) -> int: ...

    def close(self) -> None:
        """Release the tokens, deleting temporary files."""
        ...


@dataclass(frozen=True)
class JoinedSource:
    """Several sources of a run; the fingerprint is of all and of how they are joined.

    held_out: for validation alone; its tokens are not counted.
    """

    trained: tuple[TokenSource, ...]
    held_out: tuple[TokenSource, ...] = ()
    how: str = ""

    @property
    def fingerprint(self) -> str:
        """A hash of all: equal fingerprints mean equal data."""
        parts = [one.fingerprint for one in (*self.trained, *self.held_out)]
        return hashlib.sha256("".join([*parts, self.how]).encode()).hexdigest()

    def __len__(self) -> int:
        return sum(map(len, self.trained))

    def close(self) -> None:
        """Release all."""
        for one in (*self.trained, *self.held_out):
            one.close()


@dataclass(frozen=True)
class UpdateLayout:
    """Which sample of a step each row of a rank's batch holds.

    rows (A, B): the sample's number within the step. real (A, B): whether there is such a sample;
    the last step of a run may have fewer samples than rows.
    """

    rows: NDArray[np.int64]
    real: NDArray[np.bool_]

    @classmethod
    def build(
        cls, samples: int, micro_batch: int, accum: int, rank: int, world_size: int
    ) -> "UpdateLayout":
        """Lay out a step of `samples` for one rank: see `Dataset.draw_batch`.

        Raises DataError where there are none, or more than the step has rows.
        """
        if not 1 <= samples <= micro_batch * accum * world_size:
            raise DataError(
                f"{format_count(samples, 'samples do', 'sample does')} not fit a step of "
                f"{format_count(micro_batch * accum * world_size, 'rows')}"
            )
        micro = np.arange(accum)[:, None] * world_size + rank
        rows = micro * micro_batch + np.arange(micro_batch)[None, :]
        return cls(rows, rows < samples)


class ReadableTokens(Protocol):
    """Tokens that are read a stretch at a time."""

    def read(self, start: int, stop: int) -> NDArray[np.unsignedinteger]:
        """Read tokens start to stop - 1."""
        ...


def count_target_bytes(
    tokens: ReadableTokens,
    start: int,
    stop: int,
    count_bytes: CountBytes,
    mask_id: int | None = None,
) -> int:
    """Count the bytes of text of tokens start + 1 to stop - 1, of which each has one before it.

    mask_id: a token whose next one does not count, since it begins another document. Some are read
    at a time.
    """
    total = 0
    for first in range(start, stop - 1, COUNTED):
        ids = tokens.read(first, min(first + COUNTED + 1, stop))
        counted = np.arange(len(ids)) > 0
        if mask_id is not None:
            counted[1:] &= ids[:-1] != mask_id
        total += count_bytes(ids, counted)
    return total

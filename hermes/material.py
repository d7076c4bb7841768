"""What a run learns from: numbered samples of anything that becomes batches."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hermes.data import Cursor
from hermes.seam import Batch, Model, StepReport

__all__ = ["Held", "Material", "Samples"]


class Samples(Protocol):
    """Where batches come from: numbered samples to train on, and some held out."""

    train: range
    held_out: range

    def update(
        self,
        cursor: Cursor,
        *,
        samples: int,
        micro_batch: int,
        accum: int,
        rank: int = 0,
        world: int = 1,
    ) -> tuple[Batch, Cursor]:
        """The update that takes the next `samples`, and the cursor behind it."""
        ...

    def validation(self, micro_batch: int, *, rank: int = 0, world: int = 1) -> Iterator[Batch]:
        """Every sample held out, once."""
        ...

    def validation_bytes(self, byte_lengths: NDArray[np.integer]) -> int:
        """Bytes of text that the held-out targets stand for."""
        ...


class Held(Protocol):
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
class Material:
    """What a run learns from. unit: what a sample is called. notes: what its user should hear.

    measure: what a line of metrics says of an update beside its loss, of the names in `measures`.
    evaluate: the loss on what
    is held out and other numbers by name, or None where `stop` said so; None for the usual one.
    begin: called with the run's folder when its first files are written. reference_weights: SHA-256
    of the weights that it is compared with, None for nothing.
    """

    stream: Held
    samples: Samples
    unit: str = "sequences"
    notes: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    measure: Callable[[Batch, StepReport], Mapping[str, float]] = lambda batch, report: {}
    evaluate: Callable[[Model, Callable[[], bool]], Mapping[str, float] | None] | None = None
    begin: Callable[[Path], None] = lambda output: None
    reference_weights: str | None = None

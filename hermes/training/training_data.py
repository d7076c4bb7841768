"""What a run learns from: numbered samples of anything that becomes batches."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hermes.data.dataset import Dataset, TokenSource
from hermes.interface import Batch, Model, StepReport

__all__ = [
    "TrainingData",
]


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from. unit: what a sample is called. notes: what its user should hear.

    measure: what a line of metrics says of an update beside its loss, of the names in `measures`.
    evaluate: the loss on what
    is held out and other numbers by name, or None where `stop` said so; None for the usual one.
    begin: called with the run's folder when its first files are written. reference_weights: SHA-256
    of the weights that it is compared with, None for nothing.
    """

    stream: TokenSource
    samples: Dataset
    unit: str = "sequences"
    notes: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    measure: Callable[[Batch, StepReport], Mapping[str, float]] = lambda batch, report: {}
    evaluate: Callable[[Model, Callable[[], bool]], Mapping[str, float] | None] | None = None
    begin: Callable[[Path], None] = lambda output: None
    reference_weights: str | None = None

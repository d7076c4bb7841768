"""Ends a run whose validation loss falls no longer."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hermes.errors import HermesError

__all__ = ["EarlyStopping"]


@dataclass
class EarlyStopping:
    """Counts the evaluations since the validation loss last fell by more than `min_delta`, in nats.

    patience: evaluations without such a fall after which the run ends; 0 never ends it. The state
    follows from the run's metrics alone, so a resumed run ends where an unbroken one does. Raises
    HermesError.
    """

    patience: int = 0
    min_delta: float = 0.0
    best: float = math.inf
    best_step: int = 0
    waited: int = 0

    def __post_init__(self) -> None:
        if self.patience < 0:
            raise HermesError(f"--patience must be at least 0, got {self.patience}")
        if not 0 <= self.min_delta < math.inf:
            raise HermesError(f"--min-delta must be at least 0, got {self.min_delta}")

    @property
    def exhausted(self) -> bool:
        """Whether the run is to end."""
        return 0 < self.patience <= self.waited

    def should_save(self, step: int) -> bool:
        """Whether step's weights are the best so far, or the last ones."""
        return self.patience > 0 and (self.best_step == step or self.exhausted)

    def add(self, step: int, val_loss: float) -> None:
        """Take note of an evaluation."""
        if val_loss < self.best - self.min_delta:
            self.best, self.best_step, self.waited = val_loss, step, 0
        else:
            self.waited += 1

    def add_all(self, records: Iterable[Mapping[str, float]], until: int) -> None:
        """Take note of the evaluations in a run's metrics, up to step `until`."""
        for record in records:
            if "val_loss" in record and record["step"] <= until:
                self.add(int(record["step"]), record["val_loss"])

"""What the training loop asks of whoever writes a run's files, and when lines and saves are due."""

from pathlib import Path
from typing import Protocol, Self

from hermes.errors import HermesError
from hermes.interface import Learner
from hermes.training.events import Position, Recorded, RolledBack, Sample

__all__ = ["Recorder", "check_log_every", "choose_log_every", "is_due"]


class Recorder(Protocol):
    """Writes a run's metrics and checkpoints, in a `with` block that ends when all is on disk."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def record(self, event: Recorded) -> None:
        """Write the event's line of metrics."""
        ...

    def record_sample(self, sample: Sample) -> None:
        """Write a sample."""
        ...

    def save(
        self, position: Position, losses: tuple[float, ...] = (), noise: tuple[float, ...] = ()
    ) -> Path:
        """Start to write a checkpoint, once every line so far is on disk. Returns its path.

        losses: the last ones, where spikes are looked for. noise: of gradients, where measured.
        """
        ...

    def use_learner(self, learner: Learner | None) -> None:
        """Save another learner's state from now on; None lets go of the one before."""
        ...

    def roll_back(self, event: RolledBack, position: Position) -> None:
        """Cut what was written of later steps, and write down where the run goes on."""
        ...

    def is_saved(self) -> bool:
        """Whether the last checkpoint is whole on disk. Raises the error of a save that failed."""
        ...

    def wait(self) -> None:
        """Wait until the last checkpoint is whole on disk. Raises the error of a failed save."""
        ...


def check_log_every(steps: int | None) -> None:
    """Refuse a distance between lines of metrics that is none. Raises HermesError."""
    if steps is not None and steps < 1:
        raise HermesError(f"--log-every must be at least 1, got {steps}")


def choose_log_every(total_steps: int) -> int:
    """Every step of a run of fewer than 10,000, else every tenth."""
    return 1 if total_steps < 10_000 else 10


def is_due(step: int, every: int, total_steps: int) -> bool:
    """Whether something done every `every` steps, and at the end of the run, is due after `step`.

    every 0: at the end alone.
    """
    return step > 0 and (step == total_steps or (every > 0 and step % every == 0))

"""What a run tells while it trains: updates, evaluations, checkpoints, and where it is."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hermes.data import Cursor

__all__ = ["Evaluation", "Event", "Pace", "Position", "Saved", "Stopped", "Update"]


@dataclass(frozen=True)
class Position:
    """Where a run is: updates made, targets counted so far, and the next sample."""

    step: int = 0
    tokens: int = 0
    cursor: Cursor = field(default_factory=Cursor)


@dataclass(frozen=True)
class Pace:
    """Of several processes: whose own share took longest since the last line, by how much.

    over_mean: its seconds over the mean of all; what is waited for is nobody's own.
    """

    slowest: int
    over_mean: float


@dataclass(frozen=True)
class Update:
    """A logged update. loss: nats per counted token (or per pair), before it; epoch: epochs done
    after it. tokens_per_second: of all processes. others: what else is measured of such an update,
    by name.
    """

    step: int
    epoch: float
    tokens: int
    loss: float
    lr: float
    grad_norm: float
    tokens_per_second: float
    others: Mapping[str, float] = field(default_factory=dict)
    slowest_rank: int | None = None
    slowest_over_mean: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """Loss on what is held out after update `step`, in nats per token and, of text, bits per byte;
    of pairs per pair. others: what else is measured, by name.
    """

    step: int
    val_loss: float
    val_bits_per_byte: float | None = None
    others: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Saved:
    """A checkpoint is whole on disk; told at the first turn after that, so it may come later."""

    step: int
    path: Path


@dataclass(frozen=True)
class Stopped:
    """The run was asked to stop and is saved; it is not finished."""

    step: int


Event = Update | Evaluation | Saved | Stopped

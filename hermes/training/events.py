"""What a run reports while it trains: logged steps, evaluations, checkpoints, and its position."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from hermes.data import Cursor

__all__ = [
    "MEASURED",
    "OF_TASK",
    "Evaluation",
    "Event",
    "Overflow",
    "Pace",
    "Position",
    "Recorded",
    "RolledBack",
    "Sample",
    "Saved",
    "Skipped",
    "Spike",
    "Stopped",
    "StoppedEarly",
    "TaskScores",
    "TasksFailed",
    "Update",
    "make_record",
]


# Keys of a line of metrics that depend on the machine and its load, not on the run.
MEASURED = ("tokens_per_second", "mfu", "peak_memory", "save_seconds")

# What the names of tasks' scores begin with: task/hellaswag/acc.
OF_TASK = "task/"


@dataclass(frozen=True)
class Position:
    """How far a run is: optimizer steps done, targets counted so far, and the next sample."""

    step: int = 0
    tokens: int = 0
    cursor: Cursor = field(default_factory=Cursor)


@dataclass(frozen=True)
class Pace:
    """The slowest rank since the last logged step.

    over_mean: its busy seconds over the mean of all ranks; time spent waiting for other ranks is
    not counted.
    """

    slowest: int
    over_mean: float


@dataclass(frozen=True)
class Update:
    """A logged optimizer step.

    epoch: epochs done after the step. loss: nats per counted token (or per pair), before the step.
    grad_norm: global, before clipping. tokens_per_second: of all ranks together. others: what the
    objective measures besides, by name. mfu: model FLOPs utilization. peak_memory: the most bytes
    of any rank on its device so far. save_seconds: for which saving held up training since the last
    logged step. loss_scale: under float16, what the loss was multiplied by for the gradients.
    grad_noise_scale, grad_signal, grad_noise: as `hermes.numerics.gradient_noise` averages them.
    Each is None where it is not known.
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
    mfu: float | None = None
    peak_memory: int | None = None
    save_seconds: float | None = None
    loss_scale: float | None = None
    grad_noise_scale: float | None = None
    grad_signal: float | None = None
    grad_noise: float | None = None


@dataclass(frozen=True)
class Evaluation:
    """The loss on held-out data after `step`, in nats per token, or per pair.

    val_bits_per_byte: of text alone. others: what the objective measures besides, by name.
    """

    step: int
    val_loss: float
    val_bits_per_byte: float | None = None
    others: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def from_numbers(cls, step: int, numbers: Mapping[str, float]) -> Self:
        """The evaluation of `step` from its numbers by name, 'val_loss' among them."""
        own = ("val_loss", "val_bits_per_byte")
        others = {name: value for name, value in numbers.items() if name not in own}
        return cls(step, numbers["val_loss"], numbers.get("val_bits_per_byte"), others)


@dataclass(frozen=True)
class TaskScores:
    """The scores on tasks after `step`. others: by 'task/NAME/METRIC'."""

    step: int
    others: Mapping[str, float]


@dataclass(frozen=True)
class TasksFailed:
    """The tasks could not be evaluated after `step`, and the run goes on. what: says why."""

    step: int
    what: str


@dataclass(frozen=True)
class Skipped:
    """A step that was not applied, as its loss or gradient is not finite; what: says which.

    tokens: targets of all steps so far, this one's too. skipped_steps: such steps so far.
    """

    step: int
    tokens: int
    lr: float
    skipped_steps: int
    what: str


@dataclass(frozen=True)
class Overflow:
    """A step that was not applied, as its gradients, times loss_scale, overflow float16.

    tokens: targets of all steps so far, this one's too. next_loss_scale: of the step after it.
    """

    step: int
    tokens: int
    lr: float
    loss_scale: float
    next_loss_scale: float


@dataclass(frozen=True)
class Spike:
    """A step whose loss is far above those before it; what: says how far.

    spikes: such steps so far. skipped: whether it was left out, else it was applied.
    """

    step: int
    tokens: int
    spikes: int
    what: str
    skipped: bool = False


@dataclass(frozen=True)
class RolledBack:
    """The run went back to the checkpoint of `step`, or to its beginning; what: says why.

    rolled_back_from: the step that was the last straw. (next_epoch, next_sample): the samples
    before it are left out. rollbacks: such returns so far. total_steps: the run's, which may be
    fewer by the samples that were left out.
    """

    step: int
    rolled_back_from: int
    next_epoch: int
    next_sample: int
    rollbacks: int
    total_steps: int
    what: str


@dataclass(frozen=True)
class Saved:
    """The checkpoint of `step` is whole on disk; later steps may have been reported before it."""

    step: int
    path: Path


@dataclass(frozen=True)
class Sample:
    """What the model makes of a prompt after `step`. number: the prompt's, from 0."""

    step: int
    number: int
    prompt: str
    text: str


@dataclass(frozen=True)
class StoppedEarly:
    """The run ends early. best_step: where the loss last fell by more than --min-delta."""

    step: int
    best_step: int
    best: float


@dataclass(frozen=True)
class Stopped:
    """The run was stopped and saved before its end."""

    step: int


# What has a line of metrics.jsonl.
Recorded = Update | Evaluation | TaskScores | Skipped | Overflow | Spike | RolledBack
Event = Recorded | TasksFailed | Sample | Saved | StoppedEarly | Stopped


def make_record(event: Recorded) -> dict[str, float]:
    """The event as its line of metrics.jsonl, without what was not measured."""
    fields = dataclasses.asdict(event)
    if isinstance(event, Skipped | Spike | RolledBack):
        del fields["what"]
        fields.pop("total_steps", None)
        if fields.pop("skipped", False):
            fields["skipped"] = 1
        return fields
    others: dict[str, float] = fields.pop("others", {})
    return {key: value for key, value in fields.items() if value is not None} | others

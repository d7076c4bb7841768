"""What a tracker is: a program that draws a run's metrics, its settings and sample text."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

__all__ = ["MakeTracker", "TrackedRun", "Tracker", "name_curves"]


@dataclass(frozen=True)
class TrackedRun:
    """The run that a tracker follows.

    id: the same for every session of the run. folder: the run's own. step: steps done before;
    above 0 the run is resumed, and the tracker continues its curves from there. settings: every
    option and field of the recipe by name, for the tracker's table of runs.
    """

    id: str
    name: str
    project: str
    folder: Path
    step: int = 0
    settings: Mapping[str, object] = field(default_factory=dict)


class Tracker(Protocol):
    """Follows one session of a run. Its methods are called in one thread, not the training's.

    Whatever they raise is a warning: the run trains on, without the tracker.

    rewinds: a resumed run may log steps again that an earlier session has logged after its last
    checkpoint; else these are left out.
    """

    rewinds: bool

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the numbers of a step, by the name of their curve, such as 'train/loss'.

        A session may call it twice for a step, with other names.
        """
        ...

    def log_text(self, step: int, name: str, text: str) -> None:
        """Take a text of a step, such as a sample."""
        ...

    def finish(self, finished: bool) -> None:
        """Write what is left. finished: the run came to its end; else it was stopped or failed."""
        ...


class MakeTracker(Protocol):
    """Begins to follow a run."""

    def __call__(self, run: TrackedRun, /) -> Tracker:
        """Make the tracker of a session."""
        ...


def name_curves(record: Mapping[str, float]) -> dict[str, float]:
    """The numbers of a line of metrics.jsonl by the names of their curves.

    Trackers draw one panel for all names before a slash: 'loss' becomes 'train/loss', 'val_loss'
    becomes 'val/loss', and scores of tasks have a name with slashes already.
    """
    named = {}
    for key, value in record.items():
        if key == "step":
            continue
        name = f"val/{key.removeprefix('val_')}" if key.startswith("val_") else f"train/{key}"
        named[key if key.startswith("task/") else name] = float(value)
    return named

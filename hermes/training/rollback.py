"""Rolling back: a run goes back to its last checkpoint, and on with the samples behind bad steps.

The weights, the optimizer's state and the number of steps are the checkpoint's; the next sample is
the one behind the step that ended the row. Source: Chowdhery et al. 2022, PaLM, arXiv:2204.02311,
section 5.1. The metrics say where the run goes on, so that one that is killed before its next
checkpoint resumes there, too.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from hermes.data import Cursor
from hermes.errors import NonFinite
from hermes.training.metrics_file import read_metrics

__all__ = ["LIMIT", "Rollbacks", "find_next_sample"]

LIMIT = 3  # rollbacks to one checkpoint


@dataclass
class Rollbacks:
    """Counts the rollbacks of a run. total: of all; here: to the checkpoint of step `step`."""

    total: int = 0
    here: int = 0
    step: int = -1

    def add(self, step: int) -> None:
        """Count a rollback to a checkpoint, by its step."""
        self.here = self.here + 1 if step == self.step else 1
        self.total, self.step = self.total + 1, step

    def add_all(self, records: Iterable[Mapping[str, float]], until: int) -> None:
        """Count those in a run's metrics, up to step `until`."""
        for record in records:
            if "rollbacks" in record and record["step"] <= until:
                self.add(int(record["step"]))

    def require_more(self, back: int, step: int, what: str, saved: Path | None) -> None:
        """Refuse to go back to a checkpoint once more than LIMIT times. Raises NonFinite."""
        if back != self.step or self.here < LIMIT:
            return
        place = saved or "the run's beginning"
        raise NonFinite(
            f"step {step}: {what}, and the run has gone back to {place} {self.here} times "
            "without reaching its next checkpoint, so training stopped; start from it by "
            "--checkpoint with another --output and a lower --lr, or look at the data"
        )


def find_next_sample(run: Path, step: int) -> Cursor | None:
    """Where a run goes on that rolled back to the checkpoint of `step`, None where it did not."""
    if not (run / "metrics.jsonl").exists():
        return None
    jumps = [line for line in read_metrics(run, skip_odd=True)
             if "rollbacks" in line and line["step"] == step]  # fmt: skip
    if not jumps:
        return None
    return Cursor(int(jumps[-1]["next_epoch"]), int(jumps[-1]["next_sample"]))

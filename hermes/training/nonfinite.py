"""What a run does about a step whose loss or gradient is not finite."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hermes.errors import HermesError
from hermes.recipe import LossScaling

__all__ = [
    "DEFAULT_LIMIT",
    "NonFinitePolicy",
    "describe_nonfinite",
    "explain_stop",
    "lower_loss_scale",
    "read_limit",
]

DEFAULT_LIMIT = 3


@dataclass
class NonFinitePolicy:
    """Counts such steps, which no backend applies, and says when that is too many.

    limit: so many in a row are too many; 1 is the first. rolls_back: the run then goes back to its
    last checkpoint and on with the samples after them; else it stops. total: in the whole run.
    in_row: those in a row that end with step `last`. The state follows from the run's metrics
    alone, so a resumed run does what an unbroken one does.
    """

    limit: int = 1
    rolls_back: bool = False
    total: int = 0
    in_row: int = 0
    last: int = -1

    @classmethod
    def parse(cls, text: str) -> Self:
        """The policy of --on-nonfinite. Raises HermesError."""
        action, limit = text.partition(":")[0], read_limit(text, DEFAULT_LIMIT)
        if text == "stop":
            return cls()
        if action in ("skip", "rollback") and limit:
            return cls(limit, rolls_back=action == "rollback")
        raise HermesError(
            "--on-nonfinite must be stop, skip, skip:N, rollback or rollback:N with N at least 1, "
            f"got {text!r}"
        )

    @property
    def exhausted(self) -> bool:
        """Whether as many in a row as the limit have been counted."""
        return self.in_row >= self.limit

    def add(self, step: int) -> None:
        """Count a step that was not finite; steps are told in their order."""
        self.in_row = self.in_row + 1 if step == self.last + 1 else 1
        self.total, self.last = self.total + 1, step

    def end_row(self) -> None:
        """Begin to count anew, as the run continues with other samples."""
        self.in_row, self.last = 0, -1

    def add_all(self, records: Iterable[Mapping[str, float]], until: int) -> None:
        """Count those in a run's metrics, up to step `until`."""
        for record in records:
            if record["step"] > until:
                continue
            if "skipped_steps" in record:
                self.add(int(record["step"]))
            elif "rollbacks" in record:
                self.end_row()


def read_limit(text: str, default: int) -> int:
    """The N of a policy 'ACTION:N', `default` without one, 0 where it is no count from 1 on."""
    _, colon, count = text.partition(":")
    if not colon:
        return default
    return int(count) if count.isascii() and count.isdigit() else 0


def describe_nonfinite(loss: float, norm: float) -> str | None:
    """Say what is not finite: the loss, else the gradient norm; None where both are."""
    if not math.isfinite(loss):
        return f"the loss is {loss}"
    return None if math.isfinite(norm) else f"the gradient norm is {norm}"


def lower_loss_scale(loss: float, scale: float | None, rule: LossScaling) -> float | None:
    """The loss scale after a step that is not finite; None where no lower one would have helped.

    That is where the run has no scale, the scale was at its minimum, or the loss, which is not
    scaled, is not finite itself.
    """
    if scale is None or not math.isfinite(loss) or scale <= rule.minimum:
        return None
    return max(scale * rule.backoff, rule.minimum)


def explain_stop(step: int, what: str, lr: float, in_row: int, saved: Path | None) -> str:
    """Say at which step the run stopped, after how many, and what can be done."""
    kept = (
        f"the last good checkpoint is {saved}; start from it by --checkpoint "
        f"{saved} with another --output, and a lower --lr or a longer --warmup-steps"
        if saved
        else "nothing was saved; run it again with --resume, and a lower --lr or a longer "
        "--warmup-steps"
    )
    row = f", the last of {in_row} such steps in a row" if in_row > 1 else ""
    return f"step {step}: {what} at learning rate {lr:g}{row}, so training stopped; {kept}"

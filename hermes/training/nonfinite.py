"""What a run does about a step whose loss or gradient is not finite."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hermes.errors import HermesError
from hermes.recipe import LossScaling

__all__ = ["NonFinitePolicy", "describe_nonfinite", "explain_stop", "lower_loss_scale"]

DEFAULT_LIMIT = 3


@dataclass
class NonFinitePolicy:
    """Counts such steps, which no backend applies, and says when the run is to stop.

    limit: so many in a row stop it; 1 stops at the first. total: in the whole run. in_row: those in
    a row that end with step `last`. The state follows from the run's metrics alone, so a resumed
    run stops where an unbroken one does.
    """

    limit: int = 1
    total: int = 0
    in_row: int = 0
    last: int = -1

    @classmethod
    def parse(cls, text: str) -> Self:
        """The policy of --on-nonfinite: 'stop', 'skip' or 'skip:N'. Raises HermesError."""
        action, colon, count = text.partition(":")
        if text == "stop":
            return cls()
        if action == "skip" and not colon:
            return cls(DEFAULT_LIMIT)
        if action == "skip" and count.isascii() and count.isdigit() and int(count) > 0:
            return cls(int(count))
        raise HermesError(
            f"--on-nonfinite must be stop, skip or skip:N with N at least 1, got {text!r}"
        )

    @property
    def should_stop(self) -> bool:
        """Whether as many in a row as the limit have been counted."""
        return self.in_row >= self.limit

    def add(self, step: int) -> None:
        """Count a step that was not finite; steps are told in their order."""
        self.in_row = self.in_row + 1 if step == self.last + 1 else 1
        self.total, self.last = self.total + 1, step

    def add_all(self, records: Iterable[Mapping[str, float]], until: int) -> None:
        """Count those in a run's metrics, up to step `until`."""
        for record in records:
            if "skipped_steps" in record and record["step"] <= until:
                self.add(int(record["step"]))


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

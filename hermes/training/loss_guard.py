"""Watches every step's loss and gradient norm, and says what becomes of a run where one is bad."""

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from pathlib import Path

from hermes.errors import NonFinite
from hermes.recipe import LossScaling
from hermes.training.events import Overflow, Skipped, Spike
from hermes.training.nonfinite import (
    NonFinitePolicy,
    describe_nonfinite,
    explain_stop,
    lower_loss_scale,
)
from hermes.training.pending_step import PendingStep
from hermes.training.rollback import Rollbacks
from hermes.training.spikes import SpikePolicy

__all__ = ["Bad", "LossGuard", "describe_bad"]

# A step that something is wrong with.
Bad = Skipped | Overflow | Spike


def describe_bad(bad: Bad) -> str:
    """What is wrong with a step that a policy counts."""
    return "" if isinstance(bad, Overflow) else bad.what


@dataclass
class LossGuard:
    """What a run does about losses that are not finite, and about spikes.

    rollbacks: those so far. The state follows from the run's metrics and its last checkpoint.
    """

    nonfinite: NonFinitePolicy = field(default_factory=NonFinitePolicy)
    spikes: SpikePolicy = field(default_factory=SpikePolicy)
    rollbacks: Rollbacks = field(default_factory=Rollbacks)

    def judge(self, one: PendingStep, loss: float, norm: float, scaling: LossScaling) -> Bad | None:
        """Take the next step's loss and norm; what is wrong with them, None where nothing is.

        An overflow of float16's gradients, which `scaling` mends, is counted nowhere.
        """
        step, tokens = one.position.step, one.position.tokens
        if what := describe_nonfinite(loss, norm):
            lower = lower_loss_scale(loss, one.loss_scale, scaling)
            if one.loss_scale is not None and lower is not None:
                return Overflow(step, tokens, one.lr, one.loss_scale, lower)
            self.nonfinite.add(step)
            return Skipped(step, tokens, one.lr, self.nonfinite.total, what)
        if self.spikes.skips:
            one.require_loss_limit()
        if what := self.spikes.find(step, loss):
            return Spike(step, tokens, self.spikes.total, what, self.spikes.skips)
        return None

    @property
    def loss_limit(self) -> float | None:
        """Above which loss the next step is left out; None where none is for its loss.

        Where it is not None it follows from the loss of the step before.
        """
        return self.spikes.find_limit() if self.spikes.skips else None

    def should_roll_back(self, bad: Bad) -> bool:
        """Whether this step is one too many, and the run is to go back."""
        policy = self._choose_policy(bad)
        return policy is not None and policy.exhausted and policy.rolls_back

    def should_stop(self, bad: Bad) -> bool:
        """Whether this step is one too many, and the run is to stop."""
        policy = self._choose_policy(bad)
        return policy is not None and policy.exhausted and not policy.rolls_back

    def make_error(self, bad: Bad, lr: float, saved: Path | None) -> NonFinite:
        """What ends a run that is to stop; saved: its last checkpoint."""
        policy = self._choose_policy(bad)
        assert policy is not None, "an overflow stops no run"
        return NonFinite(explain_stop(bad.step, describe_bad(bad), lr, policy.in_row, saved))

    def _choose_policy(self, bad: Bad) -> NonFinitePolicy | SpikePolicy | None:
        """Who counts the step; None of an overflow, which the loss scale mends."""
        if isinstance(bad, Overflow):
            return None
        return self.nonfinite if isinstance(bad, Skipped) else self.spikes

    def copy(self) -> "LossGuard":
        """The same state, which later steps do not change; of rollbacks there is one count."""
        return LossGuard(copy(self.nonfinite), copy(self.spikes), self.rollbacks)

    def end_row(self) -> None:
        """Begin to count anew, as the run continues with other samples."""
        self.nonfinite.end_row()
        self.spikes.end_row()

    def restore(
        self, records: Sequence[Mapping[str, float]], until: int, losses: tuple[float, ...]
    ) -> None:
        """Take up a run's metrics up to step `until`, and the losses in its checkpoint."""
        self.nonfinite.add_all(records, until)
        self.spikes.restore(losses, records, until)
        self.rollbacks.add_all(records, until)

"""A step whose numbers may still be on the device."""

from dataclasses import dataclass

from hermes.interface import Batch, StepReport
from hermes.training.events import Position

__all__ = ["PendingStep"]


@dataclass(frozen=True)
class PendingStep:
    """A step whose loss and gradient norm may still be on the device."""

    report: StepReport
    position: Position
    lr: float
    batch: Batch

    @property
    def loss_scale(self) -> float | None:
        """What the loss was multiplied by for the gradients; None where it was not."""
        scale = self.report.loss_scale
        return None if scale is None else float(scale)

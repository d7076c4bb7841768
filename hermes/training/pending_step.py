"""A step whose numbers may still be on the device."""

from dataclasses import dataclass

from hermes.errors import HermesError
from hermes.interface import Batch, StepReport
from hermes.numerics.gradient_noise import RankShare, measure_share
from hermes.training.events import Position

__all__ = ["PendingStep"]


@dataclass(frozen=True)
class PendingStep:
    """A step whose loss and gradient norm may still be on the device."""

    report: StepReport
    position: Position
    lr: float
    batch: Batch

    def measure_noise(self) -> RankShare:
        """What this rank knows of the step's noise.

        Raises HermesError where the backend does not measure it.
        """
        first = self.report.first_norm
        if first is None and len(self.batch.tokens) > 1:
            raise HermesError(
                "this backend does not report first_norm, which --gradient-noise-scale needs; "
                "leave that out"
            )
        return measure_share(self.batch, None if first is None else float(first))

    def require_loss_limit(self) -> None:
        """Require that the backend compared the loss with its limit. Raises HermesError."""
        if self.report.applied is None:
            raise HermesError(
                "this backend does not leave out a step by its loss, which --on-spike skip needs; "
                "choose rollback, which takes it back"
            )

    @property
    def loss_scale(self) -> float | None:
        """What the loss was multiplied by for the gradients; None where it was not."""
        scale = self.report.loss_scale
        return None if scale is None else float(scale)

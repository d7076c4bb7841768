"""Steps whose numbers may still be on the device, and when they are read."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from hermes.errors import HermesError
from hermes.interface import Batch, StepReport
from hermes.numerics.gradient_noise import RankShare, measure_share
from hermes.training.events import Position

__all__ = ["PendingStep", "PendingSteps"]


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


class PendingSteps:
    """The steps of a run that are not read yet, in order."""

    def __init__(self) -> None:
        self._steps: list[PendingStep] = []

    def add(self, step: PendingStep) -> None:
        """Take note of a step that has been queued."""
        self._steps.append(step)

    def clear(self) -> None:
        """Drop all steps: the run goes back to before them."""
        self._steps = []

    def take_due(
        self, has_line: Callable[[int], bool], *, at_once: bool
    ) -> Iterator[list[PendingStep]]:
        """Take the steps to be read now, line by line, so that each line has its own time.

        All of them where they are needed at once. Else those up to the last one whose device has
        finished it, or has the next one queued, if that has a line: a device that is ahead of its
        host then never waits for it. has_line: whether a line of metrics is due for a step.
        """
        steps = self._steps
        number = len(steps) - steps[-1].report.runs_ahead
        if at_once:
            number = len(steps)
        elif not number or not has_line(steps[number - 1].position.step):
            number = 0
        taken, self._steps = steps[:number], steps[number:]
        ends = [at for at, one in enumerate(taken, 1) if has_line(one.position.step)]
        for start, end in pairwise(dict.fromkeys((0, *ends, number))):
            yield taken[start:end]

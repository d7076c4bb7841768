"""Dynamic loss scaling under float16, on the device, as in hermes_numpy/loss_scale.py."""

import torch
from torch import Tensor as Array

from hermes.interface import LossScale
from hermes.recipe import LossScaling


def update_loss_scale(
    scale: Array, good_steps: Array, finite: Array, rule: LossScaling
) -> tuple[Array, Array]:
    """The scale and the good steps after a step. () each; `finite` is a bool.

    Rule and source: hermes_numpy/loss_scale.py.
    """
    larger = scale * rule.growth
    grows = good_steps + 1 >= rule.interval
    grown = torch.where(grows & torch.isfinite(larger), larger, scale)
    lowered = (scale * rule.backoff).clamp(min=rule.minimum)
    good_steps = torch.where(finite & ~grows, good_steps + 1, 0)
    return torch.where(finite, grown, lowered), good_steps


class LossScaler:
    """The loss scale of a learner, on its device, so that no step waits for it."""

    def __init__(self, start: LossScale | None, rule: LossScaling, device: torch.device):
        start = start or LossScale(rule.initial)
        self._rule = rule
        self.scale = torch.tensor(start.scale, dtype=torch.float32, device=device)
        self._good_steps = torch.tensor(start.good_steps, dtype=torch.int32, device=device)

    def unscale(self, grads: list[Array]) -> None:
        """Divide gradients by the scale, in place."""
        torch._foreach_div_(grads, self.scale)

    def update(self, finite: Array) -> None:
        """Move the scale on after a step, whose gradients were `finite` or not, a bool ()."""
        self.scale, self._good_steps = update_loss_scale(
            self.scale, self._good_steps, finite, self._rule
        )

    def read(self) -> LossScale:
        """The scale of the next step; waits for the device."""
        return LossScale(float(self.scale), int(self._good_steps))

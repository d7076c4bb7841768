"""Dynamic loss scaling under float16, on the device, as in hermes_numpy/loss_scale.py."""

from typing import Any

import mlx.core as mx
from mlx.core import array as Array

from hermes.interface import LossScale
from hermes.recipe import LossScaling

Scaling = tuple[Array, Array]
"""The scale of the next step, float32, and its good steps, int32. () each."""


def load_loss_scale(start: LossScale | None, rule: LossScaling) -> Scaling:
    """The state of a learner that starts with this scale, or with the first one."""
    start = start or LossScale(rule.initial)
    return mx.array(start.scale, mx.float32), mx.array(start.good_steps, mx.int32)


def read_loss_scale(scaling: Scaling) -> LossScale:
    """The state on the host; waits for the device."""
    scale: Any = scaling[0].item()
    good_steps: Any = scaling[1].item()
    return LossScale(scale, good_steps)


def update_loss_scale(
    scale: Array, good_steps: Array, finite: Array, rule: LossScaling
) -> tuple[Array, Array]:
    """The scale and the good steps after a step. () each; `finite` is a bool.

    Rule and source: hermes_numpy/loss_scale.py.
    """
    larger = scale * rule.growth
    grows = good_steps + 1 >= rule.interval
    grown = mx.where(grows & mx.isfinite(larger), larger, scale)
    lowered = mx.maximum(scale * rule.backoff, rule.minimum)
    good_steps = mx.where(finite & ~grows, good_steps + 1, 0).astype(mx.int32)
    return mx.where(finite, grown, lowered), good_steps

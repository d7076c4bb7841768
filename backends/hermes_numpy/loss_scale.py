"""Dynamic loss scaling under float16: which scale follows a step."""

import numpy as np

from hermes.interface import LossScale
from hermes.recipe import LossScaling


def update_loss_scale(state: LossScale, finite: bool, rule: LossScaling) -> LossScale:
    """The scale and the good steps after a step whose loss and gradients were `finite` or not.

    Not finite: the step is left out, and the scale is max(minimum, backoff * scale). Finite, for
    `interval` steps in a row: growth * scale, unless float32 cannot hold that.
    Source: Micikevicius et al. 2018, arXiv:1710.03740, section 3.2; torch.amp.GradScaler.
    """
    if not finite:
        return LossScale(max(state.scale * rule.backoff, rule.minimum))
    if state.good_steps + 1 < rule.interval:
        return LossScale(state.scale, state.good_steps + 1)
    larger = state.scale * rule.growth
    return LossScale(larger if larger <= np.finfo(np.float32).max else state.scale)

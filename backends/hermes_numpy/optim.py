"""AdamW, written out, and clipping. NumPy, float64."""

import numpy as np
from numpy import ndarray as Array

from hermes.recipe import OptimizerRecipe


def clip_scale(norm: float, bound: float) -> float:
    """The factor of every gradient: min(1, bound / (norm + 1e-6)); 1 where bound is 0.

    Source: Pascanu et al. 2013, arXiv:1211.5063, algorithm 1; 1e-6 as torch.nn.utils has it.
    """
    return min(1.0, bound / (norm + 1e-6)) if bound else 1.0


def is_applied(loss: float, norm: float, limit: float | None) -> bool:
    """Whether a step changes anything: loss and norm are finite, and the loss at most the limit."""
    return bool(np.isfinite(loss) and np.isfinite(norm)) and (limit is None or loss <= limit)


def adamw(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    lr: float,
    step: int,
    decay: float,
    rule: OptimizerRecipe,
) -> tuple[Array, Array, Array]:
    """One step of AdamW on one tensor; returns the new p, m and v. `step` counts from 1.

    m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
    p = p (1 - lr wd decay) - lr / (1 - b1^step) m / (sqrt(v / (1 - b2^step)) + eps).
    decay: 1 where weight decay applies, else 0.
    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
    """
    m = rule.beta1 * m + (1 - rule.beta1) * g
    v = rule.beta2 * v + (1 - rule.beta2) * g * g
    step_size = lr / (1 - rule.beta1**step)
    root = np.sqrt(v) / np.sqrt(1 - rule.beta2**step)
    p = p * (1 - lr * rule.weight_decay * decay) - step_size * m / (root + rule.eps)
    return p, m, v

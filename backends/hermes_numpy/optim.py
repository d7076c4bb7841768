"""The update rule, written out. NumPy, float64."""

import numpy as np


def clip_scale(norm, bound):
    """What multiplies every gradient: min(1, bound / (norm + 1e-6)); 1 without a bound.

    Source: Pascanu et al. 2013, arXiv:1211.5063, algorithm 1, with torch's 1e-6.
    """
    return min(1.0, bound / (norm + 1e-6)) if bound else 1.0


def adamw(p, g, m, v, *, lr, step, decay, rule):
    """One update of one tensor; p, m and v after it. `step` counts from 1, `decay` is 0 or 1.

    m = b1 m + (1 - b1) g; v = b2 v + (1 - b2) g^2;
    p = p (1 - lr wd decay) - lr / (1 - b1^step) m / (sqrt(v / (1 - b2^step)) + eps).
    Source: Loshchilov and Hutter 2019, arXiv:1711.05101, algorithm 2.
    """
    m = rule.beta1 * m + (1 - rule.beta1) * g
    v = rule.beta2 * v + (1 - rule.beta2) * g * g
    first = lr / (1 - rule.beta1**step)
    root = np.sqrt(v) / np.sqrt(1 - rule.beta2**step)
    p = p * (1 - lr * rule.weight_decay * decay) - first * m / (root + rule.eps)
    return p, m, v

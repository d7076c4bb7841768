"""The update rule, written out as in hermes_numpy/optim.py."""

import mlx.core as mx


def global_norm(grads):
    """sqrt of the sum of the squares of every element of every gradient. -> ()."""
    return mx.sqrt(sum((g * g).sum() for g in grads))


def clip_scale(norm, bound):
    """What multiplies every gradient: min(1, bound / (norm + 1e-6)); 1 without a bound."""
    return mx.minimum(bound / (norm + 1e-6), 1.0) if bound else mx.ones_like(norm)


def adamw(p, g, m, v, *, lr, first, second, decay, rule):
    """One update of one tensor; p, m and v after it. `decay` is 0 or 1.

    lr, first = lr / (1 - b1^step) and second = 1 / sqrt(1 - b2^step) are arrays, so that a
    compiled update is not traced again for every step.
    """
    m = rule.beta1 * m + (1 - rule.beta1) * g
    v = rule.beta2 * v + (1 - rule.beta2) * g * g
    root = mx.sqrt(v) * second
    p = p * (1 - lr * (rule.weight_decay * decay)) - first * m / (root + rule.eps)
    return p, m, v

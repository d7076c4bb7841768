"""AdamW, written out as in hermes_numpy/optim.py, and clipping."""

from collections.abc import Iterable
from typing import Any

import mlx.core as mx
from mlx.core import array as Array

from hermes.recipe import OptimizerRecipe


def global_norm(grads: Iterable[Array]) -> Array:
    """The L2 norm of all gradients as one vector. -> ()."""
    squares: Any = sum((g * g).sum() for g in grads)
    return mx.sqrt(squares)


def clip_scale(norm: Array, bound: float) -> Array:
    """The factor of every gradient: min(1, bound / (norm + 1e-6)); 1 where bound is 0. () -> ().

    An array that is not evaluated yet, so that clipping does not wait for the norm.
    Source: Pascanu et al. 2013, arXiv:1211.5063, algorithm 1; 1e-6 as torch.nn.utils has it.
    """
    return mx.minimum(bound / (norm + 1e-6), 1.0) if bound else mx.ones_like(norm)


def is_applied(finite: Array, loss: Array, limit: Array | None) -> Array:
    """Whether a step changes anything: it is `finite`, and its loss at most the limit. () -> ()."""
    return finite if limit is None else finite & (loss <= limit)


def adamw(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    lr: Array,
    first: Array,
    second: Array,
    decay: float,
    rule: OptimizerRecipe,
) -> tuple[Array, Array, Array]:
    """One step of AdamW on one tensor; returns the new p, m and v.

    lr, first = lr / (1 - b1^step) and second = 1 / sqrt(1 - b2^step) are arrays: as numbers, they
    would be constants of a compiled step, which would then be compiled anew for every step.
    decay: 1 where weight decay applies, else 0. Formula and source: hermes_numpy/optim.py.
    """
    m = rule.beta1 * m + (1 - rule.beta1) * g
    v = rule.beta2 * v + (1 - rule.beta2) * g * g
    root = mx.sqrt(v) * second
    p = p * (1 - lr * (rule.weight_decay * decay)) - first * m / (root + rule.eps)
    return p, m, v

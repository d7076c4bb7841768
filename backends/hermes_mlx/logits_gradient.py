"""Derivatives of a chunk's loss by its logits: see chunked_loss.py, also for the letters."""

from typing import Any

import mlx.core as mx
from mlx.core import array as Array

from hermes.interface import IGNORE

__all__ = ["logits_gradient", "score_z"]

Head = Any  # Transformer.lm_head


def score_z(
    logits: Array, targets: Array, logp_grad: Array | None, head: Head, z_weight: float
) -> tuple[Array, Array]:
    """A chunk's z-loss, and its derivative by log(sum(exp(z))) of each token. -> (), (n,).

    logp_grad: minus each target's weight, None for -1.
    """
    lse = head.ops.log_sum_exp(logits)
    w = z_weight * (targets != IGNORE).astype(lse.dtype)
    w = w if logp_grad is None else w * -logp_grad
    return (w * mx.square(lse)).sum(), 2 * w * lse


def logits_gradient(
    logits: Array,
    targets: Array,
    logp_grad: Array | None,
    head: Head,
    z_grad: Array | None = None,
) -> Array:
    """The gradient of a chunk's loss with respect to x W^T + b. -> (n, V).

    -logp_grad (softmax(z) - onehot(target)) + z_grad softmax(z), and for
    z = cap tanh(scale y / cap) times scale (1 - (z / cap)^2).
    logp_grad: (n,), None for -1. z_grad: (n,), None for 0.
    """
    counted = (targets != IGNORE)[:, None]
    d = mx.where(mx.arange(logits.shape[-1]) == targets[:, None], -1.0, 0.0)  # -onehot(target)
    d = mx.where(counted, d + head.ops.softmax(logits), 0.0)
    d = d if logp_grad is None else d * -logp_grad[:, None]
    d = d if z_grad is None else d + z_grad[:, None] * head.ops.softmax(logits)
    d = d if head.softcap is None else d * (1 - mx.square(logits / head.softcap))
    return d if head.scale is None else d * head.scale

"""Derivatives of a chunk's loss by its logits: see chunked_loss.py, also for the letters."""

from typing import Any

import torch
from torch import Tensor as Array

from hermes.interface import IGNORE

__all__ = ["logits_gradient", "score_z"]

Head = Any  # Transformer.lm_head


def score_z(
    scores: tuple[Array, Array, Array, Array],
    targets: Array,
    logp_grad: Array | None,
    z_weight: float,
) -> tuple[Array, Array]:
    """A chunk's z-loss, and its derivative by log(sum(exp(z))) of each token. -> (), (n,).

    scores: as score_chunk gives them. logp_grad: minus each target's weight, None for -1.
    """
    logp, logits, _, columns = scores
    lse = logits.gather(1, columns)[:, 0] - logp
    w = (targets != IGNORE).to(lse.dtype) if logp_grad is None else -logp_grad
    w = z_weight * w.where(targets != IGNORE, 0.0)
    return (w * lse.square()).sum(), 2 * w * lse


def logits_gradient(
    logits: Array,
    log_softmax: Array,
    columns: Array,
    targets: Array,
    logp_grad: Array | None,
    head: Head,
    z_grad: Array | None = None,
) -> Array:
    """The gradient of a chunk's loss with respect to x W^T + b. -> (n, V).

    -logp_grad (softmax(z) - onehot(target)) + z_grad softmax(z), and for
    z = cap tanh(scale y / cap) times scale (1 - (z / cap)^2).
    logp_grad: (n,), None for -1. z_grad: (n,), None for 0. Overwrites log_softmax, to have no third
    tensor of that size.
    """
    counted = (targets != IGNORE)[:, None]
    w = counted.to(logits.dtype) if logp_grad is None else -logp_grad[:, None].where(counted, 0)
    if torch.compiler.is_compiling():
        # The compiler writes this with the softmax, in one pass; a scatter is a kernel of its own.
        order = torch.arange(logits.shape[1], device=logits.device)
        softmax = log_softmax.exp()
        if z_grad is None:
            d = torch.where(order == columns, softmax - 1, softmax).mul_(w)
        else:
            softmax = softmax * (w + z_grad[:, None])
            d = torch.where(order == columns, softmax - w, softmax)
    elif z_grad is None:
        d = log_softmax.exp_().scatter_add_(
            1, columns, torch.full_like(columns, -1, dtype=logits.dtype)
        )
        d = d.mul_(w)
    else:
        d = log_softmax.exp_().mul_(w + z_grad[:, None]).scatter_add_(1, columns, -w)
    d = d if head.softcap is None else d.mul_(1 - (logits / head.softcap).square())
    return d if head.scale is None else d.mul_(head.scale)

"""The objectives, as sums over counted targets, in float32 at least."""

import mlx.core as mx

from hermes.seam import IGNORE
from hermes_mlx.preference import pair_losses


def wide(logits):
    """Logits in the type that losses are computed in."""
    return logits if logits.dtype == mx.float64 else logits.astype(mx.float32)


def target_logprobs(logits, targets, ops):
    """log p(target), 0 where IGNORE. (B, T, V), (B, T) -> (B, T)."""
    logits, counted = wide(logits), targets != IGNORE
    chosen = mx.take_along_axis(logits, mx.where(counted, targets, 0)[..., None], axis=-1)[..., 0]
    return mx.where(counted, chosen - ops.log_sum_exp(logits), 0.0)


def next_token(logits, targets, ops):
    """The summed negative log-probability of the counted targets, in nats. -> ()."""
    return -target_logprobs(logits, targets, ops).sum()


def preference(logits, targets, reference, rule, ops):
    """The summed loss of a micro-batch's pairs, and each row's log-probability. -> (), (B,)."""
    sums = target_logprobs(logits, targets, ops).sum(axis=-1)
    counts = (targets != IGNORE).sum(axis=-1)
    return pair_losses(sums, counts, reference, rule).sum(), sums

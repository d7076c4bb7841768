"""The objectives, as sums over counted targets, in float32 at least.

They are defined on logits that exist all at once. The tables of ops.py choose between these and the
same in slices (sliced.py).
"""

import mlx.core as mx

from hermes.interface import IGNORE
from hermes_mlx.preference import pair_losses


def wide(logits):
    """Logits in the type that losses are computed in."""
    return logits if logits.dtype == mx.float64 else logits.astype(mx.float32)


def target_logprobs(logits, targets, ops):
    """log p(target), 0 where IGNORE. (..., V), (...) -> (...)."""
    logits, counted = wide(logits), targets != IGNORE
    chosen = mx.take_along_axis(logits, mx.where(counted, targets, 0)[..., None], axis=-1)[..., 0]
    return mx.where(counted, chosen - ops.log_sum_exp(logits), 0.0)


def next_token(logits, targets, ops):
    """The summed negative log-probability of the counted targets, in nats. -> ()."""
    return -target_logprobs(logits, targets, ops).sum()


def preference(sums, targets, reference, rule):
    """The summed loss of a micro-batch's pairs, of each row's log-probability. -> ()."""
    counts = (targets != IGNORE).sum(axis=-1)
    return pair_losses(sums, counts, reference, rule).sum()


def whole_logprobs(module, x, targets, at):
    """target_logprobs of the stack's output, `at` or not. (B, T, C), (B, T) -> (B, T)."""
    return target_logprobs(module.logits(x), targets, module.lm_head.ops)


def whole_next_token(module, x, targets, at):
    """next_token of the stack's output, `at` or not. (B, T, C), (B, T) -> ()."""
    return next_token(module.logits(x), targets, module.lm_head.ops)


def whole_row_logprobs(module, x, targets, pair_layout):
    """Each row's summed target_logprobs. (B, T, C), (B, T) -> (B,)."""
    return whole_logprobs(module, x, targets, None).sum(axis=-1)


def whole_preference(module, x, targets, pair_layout, reference, rule):
    """preference of the stack's output, and each row's log-probability. -> (), (B,)."""
    sums = whole_row_logprobs(module, x, targets, pair_layout)
    return preference(sums, targets, reference, rule), sums

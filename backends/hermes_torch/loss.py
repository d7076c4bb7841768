"""The objectives, as sums over counted targets, in float32 at least.

They are defined on logits that exist all at once. The tables of ops.py choose between these and the
same in slices (sliced.py).
"""

import torch
import torch.nn.functional as F

from hermes.interface import IGNORE
from hermes_torch.preference import pair_losses


def wide(logits):
    """Logits in the type that losses are computed in."""
    return logits if logits.dtype == torch.float64 else logits.float()


def target_logprobs(logits, targets):
    """log p(target), 0 where IGNORE. (..., V), (...) -> (...)."""
    flat = F.cross_entropy(
        wide(logits).flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="none"
    )
    return -flat.reshape(targets.shape)


def next_token(logits, targets):
    """The summed negative log-probability of the counted targets, in nats. -> ()."""
    return F.cross_entropy(
        wide(logits).flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )


def preference(sums, targets, reference, rule):
    """The summed loss of a micro-batch's pairs, of each row's log-probability. -> ()."""
    counts = (targets != IGNORE).sum(-1)
    return pair_losses(sums, counts, reference, rule).sum()


def whole_logprobs(module, x, targets, at):
    """target_logprobs of the stack's output, `at` or not. (B, T, C), (B, T) -> (B, T)."""
    return target_logprobs(module.logits(x), targets)


def whole_next_token(module, x, targets, at):
    """next_token of the stack's output, `at` or not. (B, T, C), (B, T) -> ()."""
    return next_token(module.logits(x), targets)


def whole_row_logprobs(module, x, targets, pair_layout):
    """Each row's summed target_logprobs. (B, T, C), (B, T) -> (B,)."""
    return whole_logprobs(module, x, targets, None).sum(-1)


def whole_preference(module, x, targets, pair_layout, reference, rule):
    """preference of the stack's output, and each row's log-probability. -> (), (B,)."""
    sums = whole_row_logprobs(module, x, targets, pair_layout)
    return preference(sums, targets, reference, rule), sums

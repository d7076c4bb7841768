"""The objectives, as sums over counted targets. NumPy, float64."""

import numpy as np

from hermes.interface import IGNORE
from hermes_numpy.ops import log_sum_exp
from hermes_numpy.preference import pair_losses


def target_logprobs(logits, targets):
    """log p(target) = z_target - log(sum(exp(z))), 0 where IGNORE. (B, T, V), (B, T) -> (B, T)."""
    B, T, V = logits.shape
    at = np.where(targets == IGNORE, 0, targets)
    chosen = logits[np.arange(B)[:, None], np.arange(T)[None, :], at]
    return np.where(targets == IGNORE, 0.0, chosen - log_sum_exp(logits))


def next_token(logits, targets):
    """The summed negative log-probability of the counted targets, in nats. -> ()."""
    return -target_logprobs(logits, targets).sum()


def preference(logits, targets, reference, rule):
    """The summed loss of a micro-batch's pairs. -> ()."""
    sums, counts = target_logprobs(logits, targets).sum(axis=-1), (targets != IGNORE).sum(axis=-1)
    return pair_losses(sums, counts, reference, rule).sum()

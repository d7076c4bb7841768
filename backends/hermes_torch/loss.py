"""The objectives, as sums over counted targets, in float32 at least."""

import torch
import torch.nn.functional as F

from hermes.seam import IGNORE
from hermes_torch.preference import pair_losses


def wide(logits):
    """Logits in the type that losses are computed in."""
    return logits if logits.dtype == torch.float64 else logits.float()


def target_logprobs(logits, targets):
    """log p(target), 0 where IGNORE. (B, T, V), (B, T) -> (B, T)."""
    flat = F.cross_entropy(
        wide(logits).flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="none"
    )
    return -flat.reshape(targets.shape)


def next_token(logits, targets):
    """The summed negative log-probability of the counted targets, in nats. -> ()."""
    return F.cross_entropy(
        wide(logits).flatten(0, 1), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )


def preference(logits, targets, reference, rule):
    """The summed loss of a micro-batch's pairs, and each row's log-probability. -> (), (B,)."""
    sums, counts = target_logprobs(logits, targets).sum(-1), (targets != IGNORE).sum(-1)
    return pair_losses(sums, counts, reference, rule).sum(), sums

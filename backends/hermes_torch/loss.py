"""The objectives, as sums over a micro-batch, in float32 at least.

The last five functions are the exact table's entries (ops.EXACT): they compute the logits of all
tokens at once. chunked_loss.py has the same five for ops.FAST, with a few tokens' logits at a time.
factor: what the caller multiplies the loss by, which is of use to chunked_loss.py alone.

Letters: P pairs, whose rows 0 to P - 1 were chosen and rows P to 2 P - 1 rejected; s a row's summed
log-probability, n its number of targets, r its s under the reference model; c the chosen row of a
pair and r the rejected one; sigma(x) = 1 / (1 + exp(-x)).
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor as Array

from hermes.interface import IGNORE
from hermes.recipe import Preference

# A Transformer of model.py, which imports ops.py, which imports this module.
Transformer = Any


def upcast(x: Array) -> Array:
    """Cast to float32, unless it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def target_logprobs(logits: Array, targets: Array) -> Array:
    """log p(target) in nats, 0 where IGNORE. (..., V), (...) -> (...)."""
    losses = F.cross_entropy(
        upcast(logits).flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="none"
    )
    return -losses.reshape(targets.shape)


def next_token_loss(logits: Array, targets: Array) -> Array:
    """Cross-entropy of the next token, -log p(target), summed over targets, in nats. -> ()."""
    return F.cross_entropy(
        upcast(logits).flatten(0, -2), targets.flatten(), ignore_index=IGNORE, reduction="sum"
    )


def next_token_loss_by_weight(logits: Array, targets: Array, weights: Array) -> Array:
    """next_token_loss with a weight for each target, -w log p(target), summed. -> ()."""
    return -(weights * target_logprobs(logits, targets)).sum()


def z_loss(logits: Array, targets: Array, weights: Array | None = None) -> Array:
    """The square of log(sum(exp(z))), summed over targets, each times its weight. -> ().

    Source: Chowdhery et al. 2022, PaLM, arXiv:2204.02311, section 5.
    """
    square = torch.logsumexp(upcast(logits), -1).square()
    square = square if weights is None else weights * square
    return square.where(targets != IGNORE, 0.0).sum()


def log_sigmoid(x: Array) -> Array:
    """log(1 / (1 + exp(-x))), without overflow."""
    return F.logsigmoid(x)


def log_one_minus_exp(m: Array, counts: Array) -> Array:
    """log(1 - exp(m)) for m < 0; 0 for a row without targets."""
    return torch.log(torch.where(counts > 0, -torch.expm1(m), 1.0))


def pair_losses(sums: Array, counts: Array, reference: Array, rule: Preference) -> Array:
    """The loss of each pair. s, n, r: (2 P,) -> (P,).

    With h = (s_c - r_c) - (s_r - r_r), m = s / n and w the label smoothing:
    sigmoid  -(1 - w) log sigma(beta h) - w log sigma(-beta h)   Rafailov et al. 2023,
             arXiv:2305.18290, eq. 7; with w > 0 Mitchell 2023, cDPO
    ipo      (h - 1 / (2 beta))^2                                Azar et al. 2023, arXiv:2310.12036,
             eq. 17 (sums over tokens, as there; some libraries take means)
    hinge    max(0, 1 - beta h)                                  Zhao et al. 2023, arXiv:2305.10425
    orpo     -m_c - beta log sigma(odds(m_c) - odds(m_r)),       Hong et al. 2024, arXiv:2403.07691,
             odds(m) = m - log(1 - exp(m))                       eqs. 4 to 7
    simpo    -log sigma(beta (m_c - m_r) - gamma)                Meng et al. 2024, arXiv:2405.14734,
             eq. 6
    each plus sft_weight times -m_c. A pair without a target in its chosen row has loss 0.
    """
    P = sums.shape[0] // 2
    has_targets = counts[:P] > 0
    means = sums / counts.clamp(min=1)
    ratio = sums - reference
    h = ratio[:P] - ratio[P:]
    match rule.loss:
        case "sigmoid":
            w = rule.label_smoothing
            losses = -(1 - w) * log_sigmoid(rule.beta * h) - w * log_sigmoid(-rule.beta * h)
        case "ipo":
            losses = (h - 1 / (2 * rule.beta)) * (h - 1 / (2 * rule.beta))
        case "hinge":
            losses = (1 - rule.beta * h).clamp(min=0)
        case "orpo":
            odds = means - log_one_minus_exp(means, counts)
            losses = -means[:P] - rule.beta * log_sigmoid(odds[:P] - odds[P:])
        case "simpo":
            losses = -log_sigmoid(rule.beta * (means[:P] - means[P:]) - rule.gamma)
    losses = losses - rule.sft_weight * means[:P]
    return torch.where(has_targets, losses, 0.0)


def preference_loss(
    sums: Array,
    targets: Array,
    reference: Array,
    rule: Preference,
    weights: Array | None = None,
) -> Array:
    """pair_losses, times their weights, summed over pairs. s: (2 P,), (2 P, T), (2 P,) -> ().

    weights (2 P,): of the pairs, as both rows have them.
    """
    counts = (targets != IGNORE).sum(-1)
    losses = pair_losses(sums, counts, reference, rule)
    return losses.sum() if weights is None else (weights[: len(losses)] * losses).sum()


def logprobs(module: Transformer, x: Array, targets: Array, target_indices: Array | None) -> Array:
    """target_logprobs of the stack's output x. (B, T, C), (B, T) -> (B, T)."""
    return target_logprobs(module.compute_logits(x), targets)


def next_token(
    module: Transformer,
    x: Array,
    targets: Array,
    target_indices: Array | None,
    weights: Array | None = None,
    z_weight: float = 0.0,
    factor: Array | None = None,
) -> Array:
    """next_token_loss of the stack's output x, with weights by weight. (B, T, C), (B, T) -> ().

    z_weight: of z_loss, which is added.
    """
    logits = module.compute_logits(x)
    if weights is None:
        loss = next_token_loss(logits, targets)
    else:
        loss = next_token_loss_by_weight(logits, targets, weights)
    return loss + z_weight * z_loss(logits, targets, weights) if z_weight else loss


def next_token_by_row(
    module: Transformer,
    x: Array,
    targets: Array,
    target_indices: Array | None,
    z_weight: float = 0.0,
    factor: Array | None = None,
) -> tuple[Array, Array]:
    """next_token, and each row's summed log-probability. (B, T, C), (B, T) -> (), (B,)."""
    logits = module.compute_logits(x)
    sums = target_logprobs(logits.detach(), targets).sum(-1)
    loss = next_token_loss(logits, targets)
    return loss + z_weight * z_loss(logits, targets) if z_weight else loss, sums


def row_logprobs(module: Transformer, x: Array, targets: Array, pair_layout: object) -> Array:
    """target_logprobs of the stack's output x, summed over each row. (B, T, C), (B, T) -> (B,)."""
    return logprobs(module, x, targets, None).sum(-1)


def preference(
    module: Transformer,
    x: Array,
    targets: Array,
    pair_layout: object,
    reference: Array,
    rule: Preference,
    weights: Array | None = None,
    factor: Array | None = None,
) -> tuple[Array, Array]:
    """preference_loss of the stack's output x, and row_logprobs. (B, T, C), (B, T) -> (), (B,)."""
    sums = row_logprobs(module, x, targets, pair_layout)
    return preference_loss(sums, targets, reference, rule, weights), sums

"""The objectives, as sums over a micro-batch. NumPy, float64.

Letters: P pairs, whose rows 0 to P - 1 were chosen and rows P to 2 P - 1 rejected; s a row's summed
log-probability, n its number of targets, r its s under the reference model; c the chosen row of a
pair and r the rejected one; sigma(x) = 1 / (1 + exp(-x)).
"""

import numpy as np
from numpy import ndarray as Array

from hermes.interface import IGNORE
from hermes.recipe import Preference
from hermes_numpy.ops import log_sum_exp


def target_logprobs(logits: Array, targets: Array) -> Array:
    """log p(target) = z_target - log(sum(exp(z))), 0 where IGNORE. (B, T, V), (B, T) -> (B, T)."""
    B, T, V = logits.shape
    columns = np.where(targets == IGNORE, 0, targets)
    chosen = logits[np.arange(B)[:, None], np.arange(T)[None, :], columns]
    return np.where(targets == IGNORE, 0.0, chosen - log_sum_exp(logits))


def next_token_loss(logits: Array, targets: Array) -> Array:
    """Cross-entropy of the next token, -log p(target), summed over targets, in nats. -> ()."""
    return -target_logprobs(logits, targets).sum()


def next_token_loss_by_weight(logits: Array, targets: Array, weights: Array) -> Array:
    """next_token_loss with a weight for each target, -w log p(target), summed. -> ()."""
    return -(weights * target_logprobs(logits, targets)).sum()


def z_loss(logits: Array, targets: Array, weights: Array | None = None) -> Array:
    """The square of log(sum(exp(z))), summed over targets, each times its weight. -> ().

    Source: Chowdhery et al. 2022, PaLM, arXiv:2204.02311, section 5.
    """
    square = log_sum_exp(logits) * log_sum_exp(logits)
    square = square if weights is None else weights * square
    return np.where(targets == IGNORE, 0.0, square).sum()


def log_sigmoid(x: Array) -> Array:
    """log(1 / (1 + exp(-x))), without overflow."""
    negative = x < 0
    return np.where(negative, x, 0) - np.log1p(np.exp(np.where(negative, x, -x)))


def log_one_minus_exp(m: Array, counts: Array) -> Array:
    """log(1 - exp(m)) for m < 0; 0 for a row without targets."""
    return np.log(np.where(counts > 0, 1 - np.exp(m), 1.0))


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
    means = sums / np.maximum(counts, 1)
    ratio = sums - reference
    h = ratio[:P] - ratio[P:]
    match rule.loss:
        case "sigmoid":
            w = rule.label_smoothing
            losses = -(1 - w) * log_sigmoid(rule.beta * h) - w * log_sigmoid(-rule.beta * h)
        case "ipo":
            losses = (h - 1 / (2 * rule.beta)) * (h - 1 / (2 * rule.beta))
        case "hinge":
            losses = np.maximum(1 - rule.beta * h, 0)
        case "orpo":
            odds = means - log_one_minus_exp(means, counts)
            losses = -means[:P] - rule.beta * log_sigmoid(odds[:P] - odds[P:])
        case "simpo":
            losses = -log_sigmoid(rule.beta * (means[:P] - means[P:]) - rule.gamma)
    losses = losses - rule.sft_weight * means[:P]
    return np.where(has_targets, losses, 0.0)


def preference_loss(
    logits: Array,
    targets: Array,
    reference: Array,
    rule: Preference,
    weights: Array | None = None,
) -> Array:
    """pair_losses, times their weights, summed over pairs. (2 P, T, V), (2 P, T), (2 P,) -> ()."""
    sums, counts = target_logprobs(logits, targets).sum(axis=-1), (targets != IGNORE).sum(axis=-1)
    losses = pair_losses(sums, counts, reference, rule)
    return losses.sum() if weights is None else (weights[: len(weights) // 2] * losses).sum()

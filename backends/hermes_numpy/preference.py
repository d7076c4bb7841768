"""Preferences: the loss of pairs of completions, from summed log-probabilities.

Written as sums over the pairs of a micro-batch. Letters: P pairs; rows 0 to P - 1 were chosen, rows
P to 2 P - 1 rejected; s a row's summed log-probability, n its counted targets, r its reference's s,
sigma(x) = 1 / (1 + exp(-x)).
"""

import numpy as np


def log_sigmoid(x):
    """log(1 / (1 + exp(-x))), without overflow."""
    low = x < 0
    return np.where(low, x, 0) - np.log1p(np.exp(np.where(low, x, -x)))


def log_one_minus_exp(m, counts):
    """log(1 - exp(m)) for m < 0; 0 for a row without a counted target."""
    return np.log(np.where(counts > 0, 1 - np.exp(m), 1.0))


def pair_losses(sums, counts, reference, rule):
    """The loss of each pair. sums, counts, reference: (2 P,) -> (P,).

    With h = (s_c - r_c) - (s_r - r_r), m = s / n and w the share of flipped labels:
    sigmoid  -(1 - w) log sigma(beta h) - w log sigma(-beta h)   Rafailov et al. 2023,
             arXiv:2305.18290, eq. 7; with w > 0 Mitchell 2023, cDPO
    ipo      (h - 1 / (2 beta))^2                                Azar et al. 2023, arXiv:2310.12036,
             eq. 17 (sums over tokens, as there; some libraries take means)
    hinge    max(0, 1 - beta h)                                  Zhao et al. 2023, arXiv:2305.10425
    orpo     -m_c - beta log sigma(odds(m_c) - odds(m_r)),       Hong et al. 2024, arXiv:2403.07691,
             odds(m) = m - log(1 - exp(m))                       eqs. 4 to 7
    simpo    -log sigma(beta (m_c - m_r) - gamma)                Meng et al. 2024, arXiv:2405.14734,
             eq. 6
    each plus sft_weight times -m_c. A pair without a counted target has no loss.
    """
    P = sums.shape[0] // 2
    some = counts[:P] > 0
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
    return np.where(some, losses, 0.0)

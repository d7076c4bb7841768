"""Muon, NorMuon, Lion and Adafactor, written out as in hermes_numpy/update_rules.py.

Each function gives the step of one tensor before the learning rate, and what it keeps.
"""

from collections.abc import Mapping

import mlx.core as mx
from mlx.core import array as Array

from hermes.numerics.update_rules import UpdateRule, compute_muon_scale

# Coefficients, and how often they are applied, of Jordan 2024.
NEWTON_SCHULZ, NEWTON_SCHULZ_STEPS = (3.4445, -4.7750, 2.0315), 5
LEAST_NORM = 1e-7  # below it a gradient is not scaled up
LEAST_SQUARE = 1e-30  # Adafactor's epsilon_1


def orthogonalize(u: Array) -> Array:
    """U V^T of u = U S V^T, its singular values 0.7 to 1.2 rather than 1. (m, n) -> (m, n).

    x = u / |u|, and five times x = a x + (b y + c y y) x with y = x x^T.
    Source: Jordan 2024, "Muon: an optimizer for hidden layers"; Bernstein and Newhouse 2024,
    arXiv:2409.20325.
    """
    a, b, c = NEWTON_SCHULZ
    wide = u.shape[0] <= u.shape[1]
    x = u if wide else u.T  # the smaller of x x^T and x^T x
    x = x / mx.maximum(mx.sqrt((x * x).sum()), LEAST_NORM)
    for _ in range(NEWTON_SCHULZ_STEPS):
        y = x @ x.T
        x = a * x + (b * y + c * (y @ y)) @ x
    return x if wide else x.T


def average_momentum(g: Array, m: Array, rule: UpdateRule) -> tuple[Array, Array]:
    """Muon's momentum: what is orthogonalized, and the new m. (m, n) -> (m, n), (m, n).

    m = mu m + (1 - mu) g, and with Nesterov (1 - mu) g + mu m of the new m.
    """
    mu = rule.recipe.momentum
    m = mu * m + (1 - mu) * g
    return ((1 - mu) * g + mu * m if rule.recipe.nesterov else m), m


def muon(g: Array, m: Array, rule: UpdateRule) -> tuple[Array, Array]:
    """Muon's step of a matrix, and the new m. (m, n) -> (m, n), (m, n).

    Source: Jordan 2024; scales: hermes.numerics.update_rules.compute_muon_scale.
    """
    u, m = average_momentum(g, m, rule)
    return compute_muon_scale(g.shape, rule.recipe) * orthogonalize(u), m


def normuon(g: Array, m: Array, v: Array, rule: UpdateRule) -> tuple[Array, Array, Array]:
    """NorMuon's step of a matrix, and the new m and v, one number for each row.

    With o orthogonalized: v = b2 v + (1 - b2) mean of each row of o^2; o / (sqrt(v) + eps), scaled
    to an rms of 0.2. Source: Li et al. 2025, arXiv:2510.05491, algorithm 1.
    """
    u, m = average_momentum(g, m, rule)
    o = orthogonalize(u)
    v = rule.recipe.beta2 * v + (1 - rule.recipe.beta2) * (o * o).mean(1)
    o = o / (mx.sqrt(v) + rule.recipe.eps)[:, None]
    norm = mx.maximum(mx.sqrt((o * o).sum()), LEAST_NORM)
    return 0.2 * g.size**0.5 / norm * o, m, v


def lion(g: Array, m: Array, rule: UpdateRule) -> tuple[Array, Array]:
    """Lion's step, sign(b1 m + (1 - b1) g), and the new m, b2 m + (1 - b2) g.

    Source: Chen et al. 2023, arXiv:2302.06675, algorithm 2.
    """
    b1, b2 = rule.recipe.beta1, rule.recipe.beta2
    return mx.sign(b1 * m + (1 - b1) * g), b2 * m + (1 - b2) * g


def clip_rms(u: Array) -> Array:
    """u / max(1, rms(u)): Adafactor's clipping of a step, with threshold 1."""
    return u / mx.maximum(mx.sqrt((u * u).mean()), 1.0)


def adafactor_vector(g: Array, v: Array, decay: Array) -> tuple[Array, Array]:
    """Adafactor's step of a tensor that is no matrix, and the new v. (n,) -> (n,), (n,).

    Source: Shazeer and Stern 2018, arXiv:1804.04235, algorithm 5.
    """
    v = decay * v + (1 - decay) * (g * g + LEAST_SQUARE)
    return clip_rms(g / mx.sqrt(v)), v


def adafactor(g: Array, row: Array, col: Array, decay: Array) -> tuple[Array, Array, Array]:
    """Adafactor's step of a matrix, and the new means of squares. (m, n), (m,), (n,).

    v = row col^T / mean(row) stands for the second moments; the step is g / sqrt(v), clipped.
    Source: Shazeer and Stern 2018, arXiv:1804.04235, algorithm 4, without relative step sizes.
    """
    square = g * g + LEAST_SQUARE
    row = decay * row + (1 - decay) * square.mean(1)
    col = decay * col + (1 - decay) * square.mean(0)
    # Two roots, as the product of both may be too small for float32.
    u = g / mx.sqrt(row / row.mean())[:, None] / mx.sqrt(col)
    return clip_rms(u), row, col


def average_weights(e: Array, p: Array, decay: float) -> Array:
    """The average of the weights after a step that made them p: decay e + (1 - decay) p."""
    return decay * e + (1 - decay) * p


def compute_step(
    g: Array, kept: Mapping[str, Array], rule: UpdateRule, square_decay: Array
) -> tuple[Array, dict[str, Array]]:
    """The step u of a tensor by any rule but adamw, and what is kept, by slot.

    square_decay: Adafactor's decay of its second moments at this step.
    """
    match rule.algorithm:
        case "muon":
            u, m = muon(g, kept["exp_avg"], rule)
            return u, {"exp_avg": m}
        case "normuon":
            u, m, v = normuon(g, kept["exp_avg"], kept["exp_avg_sq_row"], rule)
            return u, {"exp_avg": m, "exp_avg_sq_row": v}
        case "lion":
            u, m = lion(g, kept["exp_avg"], rule)
            return u, {"exp_avg": m}
    if g.ndim < 2:
        u, v = adafactor_vector(g, kept["exp_avg_sq"], square_decay)
        return u, {"exp_avg_sq": v}
    u, row, col = adafactor(g, kept["exp_avg_sq_row"], kept["exp_avg_sq_col"], square_decay)
    return u, {"exp_avg_sq_row": row, "exp_avg_sq_col": col}

"""Muon, NorMuon, Lion and Adafactor, written out as in hermes_numpy/update_rules.py.

Each function gives the step of one tensor before the learning rate, and what it keeps.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor as Array

from hermes.numerics.update_rules import (
    UpdateRule,
    compute_decay_of_squares,
    compute_muon_scale,
)
from hermes_torch.optim import split_rows

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
    x = x / torch.linalg.matrix_norm(x).clamp(min=LEAST_NORM)
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
    return compute_muon_scale(tuple(g.shape), rule.recipe) * orthogonalize(u), m


def normuon(g: Array, m: Array, v: Array, rule: UpdateRule) -> tuple[Array, Array, Array]:
    """NorMuon's step of a matrix, and the new m and v, one number for each row.

    With o orthogonalized: v = b2 v + (1 - b2) mean of each row of o^2; o / (sqrt(v) + eps), scaled
    to an rms of 0.2. Source: Li et al. 2025, arXiv:2510.05491, algorithm 1.
    """
    u, m = average_momentum(g, m, rule)
    o = orthogonalize(u)
    v = rule.recipe.beta2 * v + (1 - rule.recipe.beta2) * (o * o).mean(1)
    o = o / (v.sqrt() + rule.recipe.eps)[:, None]
    norm = torch.linalg.matrix_norm(o).clamp(min=LEAST_NORM)
    return 0.2 * g.numel() ** 0.5 / norm * o, m, v


def lion(g: Array, m: Array, rule: UpdateRule) -> tuple[Array, Array]:
    """Lion's step, sign(b1 m + (1 - b1) g), and the new m, b2 m + (1 - b2) g.

    Source: Chen et al. 2023, arXiv:2302.06675, algorithm 2.
    """
    b1, b2 = rule.recipe.beta1, rule.recipe.beta2
    return (b1 * m + (1 - b1) * g).sign(), b2 * m + (1 - b2) * g


def clip_rms(u: Array) -> Array:
    """u / max(1, rms(u)): Adafactor's clipping of a step, with threshold 1."""
    return u / (u * u).mean().sqrt().clamp(min=1.0)


def adafactor_vector(g: Array, v: Array, decay: float) -> tuple[Array, Array]:
    """Adafactor's step of a tensor that is no matrix, and the new v. (n,) -> (n,), (n,).

    Source: Shazeer and Stern 2018, arXiv:1804.04235, algorithm 5.
    """
    v = decay * v + (1 - decay) * (g * g + LEAST_SQUARE)
    return clip_rms(g / v.sqrt()), v


def adafactor(g: Array, row: Array, col: Array, decay: float) -> tuple[Array, Array, Array]:
    """Adafactor's step of a matrix, and the new means of squares. (m, n), (m,), (n,).

    v = row col^T / mean(row) stands for the second moments; the step is g / sqrt(v), clipped.
    Source: Shazeer and Stern 2018, arXiv:1804.04235, algorithm 4, without relative step sizes.
    """
    square = g * g + LEAST_SQUARE
    row = decay * row + (1 - decay) * square.mean(1)
    col = decay * col + (1 - decay) * square.mean(0)
    # Two roots, as the product of both may be too small for float32.
    u = g / (row / row.mean()).sqrt()[:, None] / col.sqrt()
    return clip_rms(u), row, col


def compute_step(
    g: Array, kept: Mapping[str, Array], rule: UpdateRule, square_decay: float
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


def average_weights(e: Array, p: Array, decay: float) -> Array:
    """The average of the weights after a step that made them p: decay e + (1 - decay) p."""
    return decay * e + (1 - decay) * p


def update_by_rule(
    p: Array,
    g: Array,
    kept: Mapping[str, Array],
    *,
    lr: float,
    step: int,
    rule: UpdateRule,
    applied: Array,
    shards: Any = None,
) -> None:
    """One step of one tensor by any rule but adamw, in place; nothing changes unless `applied`.

    lr: with the tensor's own factor. step: counted from 1. kept: may have other slots, too, and is
    computed in the type of g. shards:
    a Shards where g and what is kept are sharded: the step is then computed from the whole of them,
    in every process, and each takes its rows of it. p: this process's rows.
    """
    settings: Any = {"lr": lr, "step": step, "rule": rule, "applied": applied}
    if rule.algorithm != "lion":
        _update_tensor(p, g, kept, shards=shards, **settings)
        return
    for some_p, some_g, m in split_rows(p, g, kept["exp_avg"]):
        _update_tensor(some_p, some_g, {"exp_avg": m}, shards=None, **settings)


def _update_tensor(
    p: Array,
    g: Array,
    kept: Mapping[str, Array],
    *,
    lr: float,
    step: int,
    rule: UpdateRule,
    applied: Array,
    shards: Any,
) -> None:
    """update_by_rule of a tensor, or of some rows of one by a rule that looks at single numbers."""
    square_decay = compute_decay_of_squares(step)
    if shards is None:
        wide = {slot: kept[slot].to(g.dtype) for slot in rule.list_slots(tuple(g.shape))}
        u, new = compute_step(g, wide, rule, square_decay)
    else:
        slots = rule.list_slots(tuple(g.shape))
        whole = {slot: shards.gather(kept[slot]).to(g.dtype) for slot in slots}
        u, new = compute_step(shards.gather(g), whole, rule, square_decay)
        u, *values = (shards.to_local(shards.take_shard(x)) for x in (u, *new.values()))
        new = dict(zip(new, values, strict=True))
        kept = {slot: shards.to_local(kept[slot]) for slot in slots}
    p.copy_(torch.where(applied, p * (1 - lr * rule.weight_decay) - lr * u, p))
    for slot, value in new.items():
        kept[slot].copy_(torch.where(applied, value, kept[slot].to(value.dtype)))


def update_average(e: Array, p: Array, decay: float, applied: Array) -> None:
    """Move an average of weights towards them, in place, if the step is `applied`."""
    for average, weights in split_rows(e, p):
        moved = average_weights(average, weights, decay)
        average.copy_(torch.where(applied, moved, average))

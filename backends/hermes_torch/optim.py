"""AdamW, written out as in hermes_numpy/optim.py and as one fused kernel, and clipping."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor as Array
from torch.optim.adamw import adamw as torch_adamw

from hermes.recipe import OptimizerRecipe

Parameter = tuple[Array, Array, Array, Array]  # a tensor, its gradient and its two moments

# Numbers of a tensor that are updated at a time where an update is written out, as that makes up to
# thirteen arrays of their size; GPUs need more of them to be busy.
UPDATED_AT_ONCE, GPU_UPDATED_AT_ONCE = 1 << 20, 1 << 24


def split_rows(*tensors: Array) -> Iterator[tuple[Array, ...]]:
    """Views of the same rows of tensors that have as many, those that are updated at a time.

    By the size of the first tensor.
    """
    first = tensors[0]
    limit = UPDATED_AT_ONCE if first.device.type == "cpu" else GPU_UPDATED_AT_ONCE
    if first.numel() <= limit:
        yield tensors
        return
    rows = max(1, limit // first[0].numel())
    yield from zip(*(one.split(rows) for one in tensors), strict=True)


def global_norm(grads: Iterable[Array]) -> Array:
    """The L2 norm of all gradients as one vector. -> ()."""
    return torch.nn.utils.get_total_norm(grads)


def clip_scale(norm: Array, bound: float) -> Array:
    """The factor of every gradient: min(1, bound / (norm + 1e-6)). () -> ().

    A tensor on the device, so that clipping does not wait for the norm to reach the host.
    Source: Pascanu et al. 2013, arXiv:1211.5063, algorithm 1; 1e-6 as torch.nn.utils has it.
    """
    return (bound / (norm + 1e-6)).clamp(max=1.0)


def is_applied(finite: Array, loss: Array, limit: float | None) -> Array:
    """Whether a step changes anything: it is `finite`, and its loss at most the limit. () -> ()."""
    return finite if limit is None else finite & (loss <= limit)


def compute_clip_divisor(norm: Array, bound: float) -> Array:
    """1 / clip_scale, max(1, (norm + 1e-6) / bound), within a rounding. () -> ()."""
    return ((norm + 1e-6) / bound).clamp(min=1.0)


def adamw(
    p: Array,
    g: Array,
    m: Array,
    v: Array,
    *,
    lr: float,
    step: int,
    decay: float,
    rule: OptimizerRecipe,
) -> tuple[Array, Array, Array]:
    """One step of AdamW on one tensor; returns the new p, m and v. `step` counts from 1.

    decay: 1 where weight decay applies, else 0. Formula and source: hermes_numpy/optim.py.
    """
    m = rule.beta1 * m + (1 - rule.beta1) * g
    v = rule.beta2 * v + (1 - rule.beta2) * g * g
    step_size = lr / (1 - rule.beta1**step)
    root = v.sqrt() / (1 - rule.beta2**step) ** 0.5
    p = p * (1 - lr * rule.weight_decay * decay) - step_size * m / (root + rule.eps)
    return p, m, v


def update_exact(
    group: Sequence[Parameter],
    *,
    lr: float,
    step: int,
    decay: float,
    rule: OptimizerRecipe,
    applied: Array,
) -> None:
    """Apply adamw to each parameter in place; unless `applied`, a bool (), nothing changes.

    Moments in a shorter type are computed in that of p, and rounded at the end.
    """
    for parameter in group:
        for rows in split_rows(*parameter):
            _update_rows(rows, lr=lr, step=step, decay=decay, rule=rule, applied=applied)


def _update_rows(rows: Sequence[Array], *, applied: Array, **settings: Any) -> None:
    """update_exact of some rows of one tensor: a function, whose arrays end with it."""
    p, g, m, v = rows
    new_values = adamw(p, g, m.to(p.dtype), v.to(p.dtype), **settings)
    for old, new in zip((p, m, v), new_values, strict=True):
        old.copy_(torch.where(applied, new, old.to(new.dtype)))


def update_fused(
    group: Sequence[Parameter],
    *,
    lr: float,
    step: int,
    decay: float,
    rule: OptimizerRecipe,
    applied: Array,
    divisor: Array | None = None,
) -> None:
    """update_exact by torch's fused kernel, of gradients over `divisor`, a float32 ().

    The functional form behind torch.optim.AdamW, which would hold moments and step counts itself.
    The kernel divides as it reads a gradient, and writes the quotient over it.
    """
    if not group:
        return
    p, g, m, v = map(list, zip(*group, strict=True))
    # The kernel adds 1 to each step count in place, so it gets counts of its own.
    steps = torch.full((len(p),), float(step - 1), device=p[0].device).unbind()
    torch_adamw(
        p,
        g,
        m,
        v,
        [],
        list(steps),
        fused=True,
        # What a gradient scaler passes: its scale, and whether the step is a no-op, which 1 is.
        grad_scale=divisor,
        found_inf=(~applied).float(),
        amsgrad=False,
        beta1=rule.beta1,
        beta2=rule.beta2,
        lr=lr,
        weight_decay=rule.weight_decay * decay,
        eps=rule.eps,
        maximize=False,
    )

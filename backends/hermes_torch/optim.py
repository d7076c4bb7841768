"""The update rule: written out as in hermes_numpy/optim.py, and as one fused kernel."""

import torch
from torch.optim.adamw import adamw as fused_adamw


def global_norm(grads):
    """sqrt of the sum of the squares of every element of every gradient. -> ()."""
    return torch.nn.utils.get_total_norm(grads)


def clip_scale(norm, bound):
    """What multiplies every gradient: min(1, bound / (norm + 1e-6))."""
    return (bound / (norm + 1e-6)).clamp(max=1.0)


def adamw(p, g, m, v, *, lr, step, decay, rule):
    """One update of one tensor; p, m and v after it. `step` counts from 1, `decay` is 0 or 1."""
    m = rule.beta1 * m + (1 - rule.beta1) * g
    v = rule.beta2 * v + (1 - rule.beta2) * g * g
    first = lr / (1 - rule.beta1**step)
    root = v.sqrt() / (1 - rule.beta2**step) ** 0.5
    p = p * (1 - lr * rule.weight_decay * decay) - first * m / (root + rule.eps)
    return p, m, v


def update_exact(group, *, lr, step, decay, rule, finite):
    """adamw on (p, g, m, v) of a group, in place; nothing changes unless `finite`."""
    for p, g, m, v in group:
        for old, new in zip(
            (p, m, v), adamw(p, g, m, v, lr=lr, step=step, decay=decay, rule=rule), strict=True
        ):
            old.copy_(torch.where(finite, new, old))


def update_fused(group, *, lr, step, decay, rule, finite):
    """The same by torch's fused kernel."""
    if not group:
        return
    p, g, m, v = map(list, zip(*group, strict=True))
    steps = torch.full((len(p),), float(step - 1), device=p[0].device).unbind()
    fused_adamw(
        p,
        g,
        m,
        v,
        [],
        list(steps),
        fused=True,
        found_inf=(~finite).float(),
        amsgrad=False,
        beta1=rule.beta1,
        beta2=rule.beta2,
        lr=lr,
        weight_decay=rule.weight_decay * decay,
        eps=rule.eps,
        maximize=False,
    )

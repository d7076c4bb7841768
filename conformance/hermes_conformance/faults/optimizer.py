"""Faults of AdamW and of gradient clipping."""

from dataclasses import replace

from hermes_conformance.faults.fault import Fault, Plant, change_step
from hermes_conformance.faults.patcher import Function, Patcher

UPDATE = "L4/update"
RUN = "L4/oracle"
CASE = "train.dropout/fresh"
TOY = "run.gpt2/hot"


def _change_rule(**changes):
    """Call AdamW with other numbers in its recipe."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_function(
            patcher.load_module("optim").adamw,
            lambda original: (
                lambda *tensors, rule, **kwargs: original(
                    *tensors, rule=replace(rule, **changes), **kwargs
                )
            ),
        )

    return plant


def _change_adamw(change: Function) -> Plant:
    """Compute AdamW by change(original, p, g, m, v, **numbers)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_function(
            patcher.load_module("optim").adamw,
            lambda original: lambda *tensors, **numbers: change(original, *tensors, **numbers),
        )

    return plant


def _read_corrections(numbers):
    """(lr / (1 - b1^t), 1 / sqrt(1 - b2^t)), which one backend passes on and the other computes."""
    rule = numbers["rule"]
    if "first" in numbers:
        return numbers["first"], numbers["second"]
    step = numbers["step"]
    return numbers["lr"] / (1 - rule.beta1**step), (1 - rule.beta2**step) ** -0.5


def _skip_bias_correction(original, p, g, m, v, **numbers):
    if "first" in numbers:
        numbers = {**numbers, "first": numbers["lr"], "second": 1.0}
    else:
        numbers = {**numbers, "step": 10**9}
    return original(p, g, m, v, **numbers)


def _couple_decay(original, p, g, m, v, **numbers):
    rule = numbers["rule"]
    numbers = {**numbers, "rule": replace(rule, weight_decay=0.0)}
    return original(p, g + rule.weight_decay * numbers["decay"] * p, m, v, **numbers)


def _move_eps_inside(original, p, g, m, v, **numbers):
    rule, (first, second) = numbers["rule"], _read_corrections(numbers)
    m = rule.beta1 * m + (1 - rule.beta1) * g
    v = rule.beta2 * v + (1 - rule.beta2) * g * g
    root = (v * second * second + rule.eps) ** 0.5
    factor = 1 - numbers["lr"] * (rule.weight_decay * numbers["decay"])
    return p * factor - first * m / root, m, v


def _decay_without_rate(original, p, g, m, v, **numbers):
    rule = numbers["rule"]
    bare = replace(rule, weight_decay=0.0)
    moved, m, v = original(p, g, m, v, **{**numbers, "rule": bare})
    return moved - 1e-3 * rule.weight_decay * numbers["decay"] * p, m, v


def _decay_all_tensors(original, p, g, m, v, **numbers):
    return original(p, g, m, v, **{**numbers, "decay": 1.0})


def _square_first_moment(original, p, g, m, v, **numbers):
    moved, m_new, v_new = original(p, g, m, v, **numbers)
    rule = numbers["rule"]
    return moved, m_new, rule.beta2 * v + (1 - rule.beta2) * m_new * m_new


def _round_moments(patcher: Patcher) -> None:
    def change(original, p, g, m, v, **numbers):
        p, m, v = original(p, g, m, v, **numbers)
        return p, patcher.round_to(m), patcher.round_to(v)

    _change_adamw(change)(patcher)


def _delay_bias_correction(original, p, g, m, v, **numbers):
    if "first" in numbers:
        return original(p, g, m, v, **{**numbers, "first": numbers["first"] * 1.01})
    return original(p, g, m, v, **{**numbers, "step": numbers["step"] + 1})


def _change_clipping(change: Function) -> Plant:
    """Compute the clipping factor by change(original, norm, bound)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_function(
            patcher.load_module("optim").clip_scale,
            lambda original: lambda norm, bound: change(original, norm, bound),
        )

    return plant


def _multiply_in_kernel(patcher: Patcher) -> None:
    """AdamW's kernel is given the factor of gradients, by which it divides them."""
    optim = patcher.load_module("optim")
    patcher.wrap_function(optim.compute_clip_divisor, lambda original: optim.clip_scale)


def _skip_epsilon(original, norm, bound):
    return original(norm - 1e-6, bound)


def _change_norm(change: Function) -> Plant:
    """Compute the norm of all gradients by change(original, grads)."""

    def plant(patcher: Patcher) -> None:
        patcher.wrap_function(
            patcher.load_module("optim").global_norm,
            lambda original: lambda grads, *args: change(original, list(grads), *args),
        )

    return plant


def _apply_non_finite_step(patcher: Patcher) -> None:
    """isfinite is true of everything, so that no step is skipped."""
    optim, learner = patcher.load_module("optim"), patcher.load_module("learner")
    for module in (optim, learner):
        for name in ("torch", "mx"):
            if hasattr(module, name):
                library = getattr(module, name)
                patcher.wrap(
                    library, "isfinite", lambda original: lambda x: original(x * 0 + 1) | True
                )


def _clip_always(patcher: Patcher) -> None:
    def wrap(original):
        def faulty(self, runtime, state, recipe, process_group):
            original(
                self,
                runtime,
                state,
                replace(recipe, grad_clip=recipe.grad_clip or 1.0),
                process_group,
            )

        return faulty

    patcher.wrap_method("learner", "Learner", "__init__", wrap)


def _make_fault(
    name: str, law: str, case: str, plant: Plant, part: str = "optimizer", only: str | None = None
) -> Fault:
    return Fault(name, part, law, case, plant, only)


DECAY, EPS, CLIP = (
    _change_rule(weight_decay=0.101),
    _change_rule(eps=1e-6),
    _change_clipping(_skip_epsilon),
)

FAULTS = (
    _make_fault("no bias correction", UPDATE, CASE, _change_adamw(_skip_bias_correction)),
    _make_fault("no bias correction, in a run", RUN, TOY, _change_adamw(_skip_bias_correction)),
    _make_fault("decay is added to the gradient", UPDATE, CASE, _change_adamw(_couple_decay)),
    _make_fault("eps stands inside the root", UPDATE, CASE, _change_adamw(_move_eps_inside)),
    _make_fault("eps is 1e-6", UPDATE, CASE, _change_rule(eps=1e-6)),
    _make_fault("beta1 is 0.901", UPDATE, CASE, _change_rule(beta1=0.901)),
    _make_fault("beta2 is 0.951", UPDATE, CASE, _change_rule(beta2=0.951)),
    _make_fault("weight decay is 0.101", UPDATE, CASE, _change_rule(weight_decay=0.101)),
    _make_fault("weight decay is 0.101, in a run", RUN, TOY, _change_rule(weight_decay=0.101)),
    _make_fault("decay is not times the rate", UPDATE, CASE, _change_adamw(_decay_without_rate)),
    _make_fault("norms decay too", "L0/decay", "default/hot", _change_adamw(_decay_all_tensors)),
    _make_fault("norms decay too, in a step", UPDATE, CASE, _change_adamw(_decay_all_tensors)),
    _make_fault(
        "the second moment is the first one's square",
        UPDATE,
        CASE,
        _change_adamw(_square_first_moment),
    ),
    _make_fault("moments are bfloat16", UPDATE, CASE, _round_moments),
    _make_fault(
        "bias correction is a step late", UPDATE, CASE, _change_adamw(_delay_bias_correction)
    ),
    _make_fault(
        "a clip of 0 clips at 1", UPDATE, "train.unclipped/fresh", _clip_always, "clipping"
    ),
    _make_fault(
        "nothing is clipped",
        UPDATE,
        CASE,
        _change_clipping(lambda original, n, b: n * 0 + 1),
        "clipping",
    ),
    _make_fault(
        "the clipping rule has no 1e-6", UPDATE, CASE, _change_clipping(_skip_epsilon), "clipping"
    ),
    _make_fault(
        "the clipping rule has no 1e-6, in a run",
        RUN,
        TOY,
        _change_clipping(_skip_epsilon),
        "clipping",
    ),
    _make_fault(
        "the norm leaves out a tensor",
        UPDATE,
        CASE,
        _change_norm(lambda original, grads, *args: original(grads[1:], *args)),
        "clipping",
    ),
    _make_fault(
        "small norms are clipped up",
        UPDATE,
        "train.rarely clipped/fresh",
        _change_clipping(lambda original, norm, bound: bound / (norm + 1e-6)),
        "clipping",
    ),
    _make_fault(
        "AdamW's kernel divides by the clipping factor",
        "L4/update-float32",
        "train.hot/hot",
        _multiply_in_kernel,
        "clipping",
        "torch",
    ),
    _make_fault(
        "the rate is that of the step before",
        UPDATE,
        CASE,
        change_step(lambda original, self, batch, lr: original(self, batch, 0.9 * lr)),
    ),
    _make_fault(
        "an update that is no number is made",
        "L4/non-finite",
        "train.hot/hot",
        _apply_non_finite_step,
    ),
)

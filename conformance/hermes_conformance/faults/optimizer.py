"""Faults of the update rule, of clipping and of a learner's state."""

from dataclasses import replace

import numpy as np

from hermes.interface import TrainState
from hermes_conformance.faults.fault import Fault, Inside

UPDATE = "L4/update"
RUN = "L4/oracle"
CASE = "train.dropout/fresh"
TOY = "run.gpt2/hot"


def _rule(**changes):
    """The update with other numbers in its rule."""

    def plant(inside: Inside) -> None:
        inside.function(
            inside.module("optim").adamw,
            lambda original: (
                lambda *tensors, rule, **more: original(
                    *tensors, rule=replace(rule, **changes), **more
                )
            ),
        )

    return plant


def _adamw(change):
    """change(original, p, g, m, v, **numbers) in the place of the update."""

    def plant(inside: Inside) -> None:
        inside.function(
            inside.module("optim").adamw,
            lambda original: lambda *tensors, **numbers: change(original, *tensors, **numbers),
        )

    return plant


def _corrections(numbers):
    """(lr / (1 - b1^t), 1 / sqrt(1 - b2^t)) as either backend is told of them."""
    rule = numbers["rule"]
    if "first" in numbers:
        return numbers["first"], numbers["second"]
    step = numbers["step"]
    return numbers["lr"] / (1 - rule.beta1**step), (1 - rule.beta2**step) ** -0.5


def _uncorrected(original, p, g, m, v, **numbers):
    if "first" in numbers:
        numbers = {**numbers, "first": numbers["lr"], "second": 1.0}
    else:
        numbers = {**numbers, "step": 10**9}
    return original(p, g, m, v, **numbers)


def _coupled(original, p, g, m, v, **numbers):
    rule = numbers["rule"]
    numbers = {**numbers, "rule": replace(rule, weight_decay=0.0)}
    return original(p, g + rule.weight_decay * numbers["decay"] * p, m, v, **numbers)


def _eps_inside(original, p, g, m, v, **numbers):
    rule, (first, second) = numbers["rule"], _corrections(numbers)
    m = rule.beta1 * m + (1 - rule.beta1) * g
    v = rule.beta2 * v + (1 - rule.beta2) * g * g
    root = (v * second * second + rule.eps) ** 0.5
    kept = 1 - numbers["lr"] * (rule.weight_decay * numbers["decay"])
    return p * kept - first * m / root, m, v


def _decay_without_lr(original, p, g, m, v, **numbers):
    rule = numbers["rule"]
    bare = replace(rule, weight_decay=0.0)
    moved, m, v = original(p, g, m, v, **{**numbers, "rule": bare})
    return moved - 1e-3 * rule.weight_decay * numbers["decay"] * p, m, v


def _decay_all(original, p, g, m, v, **numbers):
    return original(p, g, m, v, **{**numbers, "decay": 1.0})


def _square_of_mean(original, p, g, m, v, **numbers):
    moved, m_new, v_new = original(p, g, m, v, **numbers)
    rule = numbers["rule"]
    return moved, m_new, rule.beta2 * v + (1 - rule.beta2) * m_new * m_new


def _short_moments(inside: Inside) -> None:
    def change(original, p, g, m, v, **numbers):
        p, m, v = original(p, g, m, v, **numbers)
        return p, inside.shorter(m), inside.shorter(v)

    _adamw(change)(inside)


def _late(original, p, g, m, v, **numbers):
    if "first" in numbers:
        return original(p, g, m, v, **{**numbers, "first": numbers["first"] * 1.01})
    return original(p, g, m, v, **{**numbers, "step": numbers["step"] + 1})


def _clip(change):
    """change(norm, bound) in the place of the clipping factor."""

    def plant(inside: Inside) -> None:
        inside.function(
            inside.module("optim").clip_scale,
            lambda original: lambda norm, bound: change(original, norm, bound),
        )

    return plant


def _no_epsilon(original, norm, bound):
    return original(norm - 1e-6, bound)


def _norm(change):
    """change(original, grads) in the place of the norm of all gradients."""

    def plant(inside: Inside) -> None:
        inside.function(
            inside.module("optim").global_norm,
            lambda original: lambda grads, *more: change(original, list(grads), *more),
        )

    return plant


def state(change):
    """change(state) in the place of what a learner hands over."""

    def plant(inside: Inside) -> None:
        inside.method(
            "learner",
            "Learner",
            "state",
            lambda original: lambda self: change(original(self)),
        )

    return plant


def taken(change):
    """change(state) in the place of what a learner is given."""

    def plant(inside: Inside) -> None:
        def make(original):
            return lambda self, spec, state, *rest, **more: original(
                self, spec, change(state), *rest, **more
            )

        inside.method("backend", "Backend", "learner", make)

    return plant


def _rounded(state: TrainState) -> TrainState:
    def short(tensors):
        return {n: np.array(t).astype(np.float16).astype(t.dtype) for n, t in tensors.items()}

    return replace(state, params=short(state.params))


def _applied_anyway(inside: Inside) -> None:
    """isfinite says yes to everything."""
    optim, learner = inside.module("optim"), inside.module("learner")
    for module in (optim, learner):
        for name in ("torch", "mx"):
            if hasattr(module, name):
                library = getattr(module, name)
                inside.wrap(
                    library, "isfinite", lambda original: lambda x: original(x * 0 + 1) | True
                )


def _step(change):
    """change(original, self, batch, lr) in the place of a learner's update."""

    def plant(inside: Inside) -> None:
        inside.method(
            "learner",
            "Learner",
            "step",
            lambda original: lambda self, batch, lr: change(original, self, batch, lr),
        )

    return plant


def _always_clips(inside: Inside) -> None:
    def make(original):
        def wrong(self, runtime, state, recipe, process_group):
            original(
                self,
                runtime,
                state,
                replace(recipe, grad_clip=recipe.grad_clip or 1.0),
                process_group,
            )

        return wrong

    inside.method("learner", "Learner", "__init__", make)


def _fault(name, law, case, plant, part="optimizer", only=None):
    return Fault(name, part, law, case, plant, only)


DECAY, EPS, CLIP = _rule(weight_decay=0.101), _rule(eps=1e-6), _clip(_no_epsilon)

FAULTS = (
    _fault("no bias correction", UPDATE, CASE, _adamw(_uncorrected)),
    _fault("no bias correction, in a run", RUN, TOY, _adamw(_uncorrected)),
    _fault("decay is added to the gradient", UPDATE, CASE, _adamw(_coupled)),
    _fault("eps stands inside the root", UPDATE, CASE, _adamw(_eps_inside)),
    _fault("eps is 1e-6", UPDATE, CASE, _rule(eps=1e-6)),
    _fault("beta1 is 0.901", UPDATE, CASE, _rule(beta1=0.901)),
    _fault("beta2 is 0.951", UPDATE, CASE, _rule(beta2=0.951)),
    _fault("weight decay is 0.101", UPDATE, CASE, _rule(weight_decay=0.101)),
    _fault("weight decay is 0.101, in a run", RUN, TOY, _rule(weight_decay=0.101)),
    _fault("decay is not times the rate", UPDATE, CASE, _adamw(_decay_without_lr)),
    _fault("norms decay too", "L0/decay", "default/hot", _adamw(_decay_all)),
    _fault("norms decay too, in an update", UPDATE, CASE, _adamw(_decay_all)),
    _fault("the second moment is the first one's square", UPDATE, CASE, _adamw(_square_of_mean)),
    _fault("moments are bfloat16", UPDATE, CASE, _short_moments),
    _fault("bias correction is an update late", UPDATE, CASE, _adamw(_late)),
    _fault("a clip of 0 clips at 1", UPDATE, "train.unclipped/fresh", _always_clips, "clipping"),
    _fault("nothing is clipped", UPDATE, CASE, _clip(lambda original, n, b: n * 0 + 1), "clipping"),
    _fault("the clipping rule has no 1e-6", UPDATE, CASE, _clip(_no_epsilon), "clipping"),
    _fault("the clipping rule has no 1e-6, in a run", RUN, TOY, _clip(_no_epsilon), "clipping"),
    _fault(
        "the norm leaves out a tensor",
        UPDATE,
        CASE,
        _norm(lambda original, grads, *more: original(grads[1:], *more)),
        "clipping",
    ),
    _fault(
        "small norms are clipped up",
        UPDATE,
        "train.rarely clipped/fresh",
        _clip(lambda original, norm, bound: bound / (norm + 1e-6)),
        "clipping",
    ),
    _fault(
        "the rate is that of the update before",
        UPDATE,
        CASE,
        _step(lambda original, self, batch, lr: original(self, batch, 0.9 * lr)),
    ),
    _fault(
        "an update that is no number is made", "L4/non-finite", "train.hot/hot", _applied_anyway
    ),
    _fault(
        "a state has its moments swapped",
        "L5/resume",
        "move.dropout/fresh",
        state(lambda s: replace(s, exp_avg=s.exp_avg_sq, exp_avg_sq=s.exp_avg)),
        "state",
    ),
    _fault(
        "a state forgets its step",
        "L0/resume",
        "default/hot",
        state(lambda s: replace(s, step=s.step - 1)),
        "state",
    ),
    _fault(
        "a learner forgets its moments",
        "L5/resume",
        "move.dropout/fresh",
        taken(lambda s: replace(s, exp_avg={}, exp_avg_sq={})),
        "state",
    ),
    _fault(
        "bias correction begins anew after a resume",
        "L5/resume",
        "move.tied/fresh",
        taken(lambda s: replace(s, step=0)),
        "state",
    ),
    _fault(
        "weights pass through float16",
        "L0/weights",
        "default/hot",
        state(_rounded),
        "state",
    ),
)

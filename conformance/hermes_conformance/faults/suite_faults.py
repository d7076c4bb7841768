"""Faults of the suite itself, and the controls that a sound suite meets.

A control is a small experiment with a known answer: an error just above a bound must fail, a law
that raises must fail, a refusal is declined and never passed. A planted fault of the suite is
caught if any control is no longer met.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np

from hermes.errors import Unsupported
from hermes_conformance.faults.fault import Inside
from hermes_conformance.laws import LEVELS, canary, semantics
from hermes_conformance.laws.cases import standard
from hermes_conformance.measure import compare, tolerance
from hermes_conformance.measure.law import Law, Sides
from hermes_conformance.suite import runner
from hermes_conformance.suite.runner import DECLINED, FAILED, PASSED, Selection, judge

Controls = dict[str, bool]


def _named(name: str):
    return next(case for case in standard() if case.name == name)


def _law(name: str) -> Law:
    return next(one for one in semantics.LAWS if one.name == name)


def _with_fault(sides: Sides, law_name: str, case: str, plant: Callable[[Inside], None]) -> str:
    """The outcome of a law while a fault is planted in the subject."""
    with ExitStack() as stack:
        plant(Inside(sides.subject.name, stack))
        sides.subject.forget()
        try:
            return runner.run(_law(law_name), _named(case), sides).status
        finally:
            sides.subject.forget()


def _logits(change):
    def plant(inside: Inside) -> None:
        inside.method(
            "inference",
            "Model",
            "logits",
            lambda original: lambda self, *given: change(original(self, *given)),
        )

    return plant


def _grads(factor):
    def plant(inside: Inside) -> None:
        def make(original):
            def wrong(self, batch):
                loss, grads = original(self, batch)
                return loss, {name: np.asarray(grads[name]) * factor for name in grads}

            return wrong

        inside.method("learner", "Learner", "grads", make)

    return plant


def _one_off(logits):
    """The last element alone is off, by three bounds."""
    found = logits.copy()
    found.flat[-1] += 3e-11 * compare.rms(found)
    return found


def _one_nan(logits):
    found = logits.copy()
    found.flat[0] = np.nan
    return found


def _refuses(*arguments):
    raise Unsupported("not here")


def _raises(*arguments):
    raise ValueError("broken")


def controls(sides: Sides) -> Controls:
    """Whether each control is met; all are by a sound suite."""
    case, plain = "default/hot", _law("logits")

    def met(plant, law_name="logits"):
        return _with_fault(sides, law_name, case, plant) == FAILED

    def status(check) -> str:
        return runner.run(replace(plain, check=check), _named(case), sides).status

    empty = replace(plain, applies=lambda case: False)
    level = replace(LEVELS[1], laws=(empty,), cases=lambda long: standard()[:2], canary=False)
    return {
        "an error of three bounds in one logit fails": met(_logits(_one_off)),
        "a relative error of 1e-6 in all logits fails": met(_logits(lambda x: x * (1 + 1e-6))),
        "it fails the roundings too": met(_logits(lambda x: x * (1 + 1e-6)), "float32"),
        "a logit that is no number fails": met(_logits(_one_nan)),
        "gradients off by 1e-9 fail": met(_grads(1 + 1e-9), "derivatives"),
        "a law that raises fails": status(_raises) == FAILED,
        "a law that measures nothing fails": status(lambda case, sides: []) == FAILED,
        "a refusal is declined": status(_refuses) == DECLINED,
        "a law that meets no case fails": [o.status for o in runner.judge_level(level, sides)]
        == [FAILED],
        "every level has cases": all(level.cases(False) for level in runner.LEVELS),
        "a good backend passes": runner.run(plain, _named(case), sides).status == PASSED,
        "a float64 that is float32 inside is refused": _refused(sides),
        "the oracle is the oracle": sides.oracle.name == "numpy",
    }


def _refused(sides: Sides) -> bool:
    with ExitStack() as stack:
        inside = Inside(sides.subject.name, stack)
        inside.activation(
            "silu", lambda found: lambda x: inside.shorter(found["silu"](x), "float32")
        )
        sides.subject.forget()
        found = list(judge(sides, Selection(("L1",), ("L1/logits",), ("default/*",))))
        sides.subject.forget()
    return all(o.status == FAILED and o.case == "canary" for o in found)


@dataclass(frozen=True)
class SuiteFault:
    """A fault of the suite: name, and what plants it."""

    name: str
    plant: Callable[[ExitStack], None]


def _replace(target, attribute, value):
    def plant(stack: ExitStack) -> None:
        Inside("numpy", stack).replace(target, attribute, value)

    return plant


def _wrap(target, attribute, make):
    def plant(stack: ExitStack) -> None:
        Inside("numpy", stack).wrap(target, attribute, make)

    return plant


def _loose(name):
    bound = getattr(tolerance, name)
    return _replace(tolerance, name, replace(bound, limit=1e6 * bound.limit))


def _never_fails(original):
    def wrong(law, case, sides):
        outcome = original(law, case, sides)
        return replace(outcome, status=runner.PASSED, failures=())

    return wrong


def _swallows(original):
    def wrong(law, case, sides):
        outcome = original(law, case, sides)
        return replace(outcome, status=runner.PASSED) if outcome.worst is None else outcome

    return wrong


def _first_only(original):
    """Only the first element of every tensor is compared."""

    def wrong(tensor, got, expected, *more, **named):
        got, expected = np.asarray(got), np.asarray(expected)
        return original(tensor, got.flat[:1], expected.flat[:1], *more, **named)

    return wrong


def _nan_is_fine(original):
    def wrong(tensor, got, expected, *more, **named):
        return original(tensor, np.where(np.isnan(got), expected, got), expected, *more, **named)

    return wrong


def _mean_not_max(original):
    def wrong(tensor, got, expected, bound, scale=None):
        found = original(tensor, got, expected, bound, scale)
        apart = np.abs(np.asarray(got, float) - np.asarray(expected, float)).mean()
        return replace(found, error=float(apart / (compare.rms(expected) or 1.0)))

    return wrong


def _both(*plants):
    def plant(stack: ExitStack) -> None:
        for one in plants:
            one(stack)

    return plant


def _quiet(original):
    return lambda *given: (outcome for outcome in original(*given) if outcome.case)


SUITE_FAULTS = (
    SuiteFault("the bound of logits is a million times wider", _loose("LOGITS_64")),
    SuiteFault("the bound of derivatives is a million times wider", _loose("DERIVATIVE_64")),
    SuiteFault("the bound of the canary is a million times wider", _loose("CANARY_64")),
    SuiteFault(
        "arrays are compared with themselves",
        _wrap(semantics, "relative", lambda o: lambda what, a, b, *r, **k: o(what, a, a, *r, **k)),
    ),
    SuiteFault("only first elements are compared", _wrap(semantics, "relative", _first_only)),
    SuiteFault("means are compared for maxima", _wrap(semantics, "relative", _mean_not_max)),
    SuiteFault("what is no number is fine", _wrap(semantics, "relative", _nan_is_fine)),
    SuiteFault(
        "every logit is exempt as a midpoint",
        _both(
            _replace(tolerance, "MIDPOINT", replace(tolerance.MIDPOINT, limit=1.0)),
            _replace(tolerance, "MIDPOINT_SHARE", replace(tolerance.MIDPOINT_SHARE, limit=1.0)),
        ),
    ),
    SuiteFault("no outcome ever fails", _wrap(runner, "run", _never_fails)),
    SuiteFault("exceptions are swallowed", _wrap(runner, "run", _swallows)),
    SuiteFault("refusals count as passed", _replace(runner, "DECLINED", runner.PASSED)),
    SuiteFault("a law without a case is passed over", _wrap(runner, "judge_level", _quiet)),
    SuiteFault(
        "fixtures are empty",
        _replace(runner, "LEVELS", tuple(replace(o, cases=lambda long: ()) for o in LEVELS)),
    ),
    SuiteFault("the canary is dead", _replace(canary, "canaries", lambda side: {})),
)

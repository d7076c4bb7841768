"""Faults of the suite itself, and the controls that a sound suite meets.

A control is a small experiment with a known result: an error just above a bound fails, a law that
raises fails, a refusal is declined and does not pass. A fault of the suite is caught if any control
is no longer met.
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import numpy as np

from hermes.errors import Unsupported
from hermes_conformance.cases.case import Case
from hermes_conformance.cases.standard import make_standard_cases
from hermes_conformance.faults.fault import Plant
from hermes_conformance.faults.patcher import Function, Patcher, Wrapper
from hermes_conformance.laws import LEVELS, canary, semantics
from hermes_conformance.measure import compare, tolerance
from hermes_conformance.measure.law import Check, Law
from hermes_conformance.measure.subject import Backends
from hermes_conformance.suite import runner, selection
from hermes_conformance.suite.runner import DECLINED, FAILED, PASSED, judge
from hermes_conformance.suite.selection import Selection

SuitePlant = Callable[[ExitStack], None]


@dataclass(frozen=True)
class SuiteFault:
    """A fault of the suite. plant: plants it until the stack closes."""

    name: str
    plant: SuitePlant


def _find_case(name: str) -> Case:
    return next(case for case in make_standard_cases() if case.name == name)


def _find_law(name: str) -> Law:
    return next(law for law in semantics.LAWS if law.name == name)


def _judge_with_fault(backends: Backends, law_name: str, case: str, plant: Plant) -> str:
    """The status of a law while a fault is planted in the subject."""
    with ExitStack() as stack:
        plant(Patcher(backends.subject.name, stack))
        backends.subject.forget()
        try:
            return runner.judge_case(_find_law(law_name), _find_case(case), backends).status
        finally:
            backends.subject.forget()


def _change_logits(change: Function) -> Plant:
    def plant(patcher: Patcher) -> None:
        patcher.wrap_method(
            "inference",
            "Model",
            "logits",
            lambda original: lambda self, *args: change(original(self, *args)),
        )

    return plant


def _scale_grads(factor: float) -> Plant:
    def plant(patcher: Patcher) -> None:
        def wrap(original):
            def faulty(self, batch):
                loss, grads = original(self, batch)
                return loss, {name: np.asarray(grads[name]) * factor for name in grads}

            return faulty

        patcher.wrap_method("learner", "Learner", "grads", wrap)

    return plant


def _change_one_element(logits: np.ndarray) -> np.ndarray:
    """Only the last element is wrong, by three bounds."""
    changed = logits.copy()
    changed.flat[-1] += 3e-11 * compare.rms(changed)
    return changed


def _insert_nan(logits: np.ndarray) -> np.ndarray:
    changed = logits.copy()
    changed.flat[0] = np.nan
    return changed


def _decline(*args: Any) -> NoReturn:
    raise Unsupported("not here")


def _raise_error(*args: Any) -> NoReturn:
    raise ValueError("broken")


def run_controls(backends: Backends) -> dict[str, bool]:
    """Whether each control is met; in a sound suite all are."""
    case, logits_law = "default/hot", _find_law("logits")

    def fails(plant: Plant, law_name: str = "logits") -> bool:
        return _judge_with_fault(backends, law_name, case, plant) == FAILED

    def judge_check(check: Check) -> str:
        law = replace(logits_law, check=check)
        return runner.judge_case(law, _find_case(case), backends).status

    no_case = replace(logits_law, applies_to=lambda case: False)
    level = replace(
        LEVELS[1],
        laws=(no_case,),
        make_cases=lambda long: make_standard_cases()[:2],
        canary=False,
    )
    return {
        "an error of three bounds in one logit fails": fails(_change_logits(_change_one_element)),
        "a relative error of 1e-6 in all logits fails": fails(
            _change_logits(lambda x: x * (1 + 1e-6))
        ),
        "it fails the roundings too": fails(_change_logits(lambda x: x * (1 + 1e-6)), "float32"),
        "a logit that is no number fails": fails(_change_logits(_insert_nan)),
        "gradients off by 1e-9 fail": fails(_scale_grads(1 + 1e-9), "derivatives"),
        "a law that raises fails": judge_check(_raise_error) == FAILED,
        "a law that measures nothing fails": judge_check(lambda case, backends: []) == FAILED,
        "a refusal is declined": judge_check(_decline) == DECLINED,
        "a law that meets no case fails": [o.status for o in runner.judge_level(level, backends)]
        == [FAILED],
        "every level has cases": all(
            level.make_cases(False) for level in selection.EVERYTHING.list_levels()
        ),
        "a good backend passes": judge_check(logits_law.check) == PASSED,
        "a float64 that is float32 inside is refused": _is_float32_refused(backends),
        "the oracle is the oracle": backends.oracle.name == "numpy",
    }


def _is_float32_refused(backends: Backends) -> bool:
    """Whether a silu of float32 accuracy makes the canary refuse L1."""
    with ExitStack() as stack:
        patcher = Patcher(backends.subject.name, stack)
        patcher.wrap_activation(
            "silu",
            lambda functions: lambda x: patcher.round_to(functions["silu"](x), "float32"),
        )
        backends.subject.forget()
        outcomes = list(judge(backends, Selection(("L1",), ("L1/logits",), ("default/*",))))
        backends.subject.forget()
    return all(o.status == FAILED and o.case == "canary" for o in outcomes)


def _replace(target: Any, attribute: str, value: Any) -> SuitePlant:
    def plant(stack: ExitStack) -> None:
        Patcher("numpy", stack).replace(target, attribute, value)

    return plant


def _wrap(target: Any, attribute: str, wrapper: Wrapper) -> SuitePlant:
    def plant(stack: ExitStack) -> None:
        Patcher("numpy", stack).wrap(target, attribute, wrapper)

    return plant


def _widen_bound(name: str) -> SuitePlant:
    bound = getattr(tolerance, name)
    return _replace(tolerance, name, replace(bound, limit=1e6 * bound.limit))


def _pass_always(original):
    def faulty(law, case, backends):
        outcome = original(law, case, backends)
        return replace(outcome, status=runner.PASSED, failures=())

    return faulty


def _swallow_exceptions(original):
    def faulty(law, case, backends):
        outcome = original(law, case, backends)
        return replace(outcome, status=runner.PASSED) if outcome.worst is None else outcome

    return faulty


def _compare_with_itself(original):
    def faulty(tensor, got, expected, *args, **kwargs):
        return original(tensor, got, got, *args, **kwargs)

    return faulty


def _compare_first_element(original):
    def faulty(tensor, got, expected, *args, **kwargs):
        got, expected = np.asarray(got), np.asarray(expected)
        return original(tensor, got.flat[:1], expected.flat[:1], *args, **kwargs)

    return faulty


def _accept_nan(original):
    def faulty(tensor, got, expected, *args, **kwargs):
        got = np.where(np.isnan(got), expected, got)
        return original(tensor, got, expected, *args, **kwargs)

    return faulty


def _compare_means(original):
    def faulty(tensor, got, expected, bound, scale=None):
        measurement = original(tensor, got, expected, bound, scale)
        apart = np.abs(np.asarray(got, float) - np.asarray(expected, float)).mean()
        return replace(measurement, error=float(apart / (compare.rms(expected) or 1.0)))

    return faulty


def _combine(*plants: SuitePlant) -> SuitePlant:
    def plant(stack: ExitStack) -> None:
        for one in plants:
            one(stack)

    return plant


def _hide_empty_laws(original):
    return lambda *args: (outcome for outcome in original(*args) if outcome.case)


SUITE_FAULTS = (
    SuiteFault("the bound of logits is a million times wider", _widen_bound("LOGITS_64")),
    SuiteFault("the bound of derivatives is a million times wider", _widen_bound("DERIVATIVE_64")),
    SuiteFault("the bound of the canary is a million times wider", _widen_bound("CANARY_64")),
    SuiteFault(
        "arrays are compared with themselves",
        _wrap(semantics, "compare_relative", _compare_with_itself),
    ),
    SuiteFault(
        "only first elements are compared",
        _wrap(semantics, "compare_relative", _compare_first_element),
    ),
    SuiteFault(
        "means are compared for maxima",
        _wrap(semantics, "compare_relative", _compare_means),
    ),
    SuiteFault("what is no number is fine", _wrap(semantics, "compare_relative", _accept_nan)),
    SuiteFault(
        "every logit is exempt as a midpoint",
        _combine(
            _replace(tolerance, "MIDPOINT", replace(tolerance.MIDPOINT, limit=1.0)),
            _replace(tolerance, "MIDPOINT_SHARE", replace(tolerance.MIDPOINT_SHARE, limit=1.0)),
        ),
    ),
    SuiteFault("no outcome ever fails", _wrap(runner, "judge_case", _pass_always)),
    SuiteFault("exceptions are swallowed", _wrap(runner, "judge_case", _swallow_exceptions)),
    SuiteFault("refusals count as passed", _replace(runner, "DECLINED", runner.PASSED)),
    SuiteFault(
        "a law without a case is passed over",
        _wrap(runner, "judge_level", _hide_empty_laws),
    ),
    SuiteFault(
        "fixtures are empty",
        _replace(
            selection,
            "LEVELS",
            tuple(replace(level, make_cases=lambda long: ()) for level in LEVELS),
        ),
    ),
    SuiteFault("the canary is dead", _replace(canary, "measure_canaries", lambda subject: {})),
)

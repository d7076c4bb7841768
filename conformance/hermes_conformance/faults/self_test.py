"""Plant every fault in turn, and report which law caught it."""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from typing import TypeVar

from hermes.errors import HermesError, Unsupported
from hermes_conformance.cases.case import Case
from hermes_conformance.faults import (
    adapters,
    as_trained,
    attention,
    backward,
    blocks,
    cache,
    compiled,
    compiled_evaluation,
    core_library,
    decoding,
    device_rows,
    documents,
    embeddings_and_head,
    gradient_noise,
    kernels,
    late_numbers,
    loss_limit,
    loss_scaling,
    norms,
    objectives,
    optimizer,
    outputs,
    pairs_of_backends,
    positions,
    production,
    products,
    ranges,
    rows,
    sources,
    state,
    update_rules,
)
from hermes_conformance.faults.fault import Fault
from hermes_conformance.faults.patcher import Patcher, has_known_layout
from hermes_conformance.faults.suite_faults import SUITE_FAULTS, SuiteFault, run_controls
from hermes_conformance.laws import LEVELS, list_laws
from hermes_conformance.laws.canary import explain_refusal
from hermes_conformance.measure.law import Law
from hermes_conformance.measure.subject import Backends
from hermes_conformance.suite.runner import FAILED, PASSED, Outcome, judge_case

T = TypeVar("T")

FAULTS: tuple[Fault, ...] = (
    *positions.FAULTS,
    *attention.FAULTS,
    *norms.FAULTS,
    *blocks.FAULTS,
    *ranges.FAULTS,
    *embeddings_and_head.FAULTS,
    *backward.FAULTS,
    *objectives.FAULTS,
    *adapters.FAULTS,
    *optimizer.FAULTS,
    *update_rules.FAULTS,
    *loss_scaling.FAULTS,
    *loss_limit.FAULTS,
    *late_numbers.FAULTS,
    *gradient_noise.FAULTS,
    *state.FAULTS,
    *cache.FAULTS,
    *rows.FAULTS,
    *decoding.FAULTS,
    *device_rows.FAULTS,
    *documents.FAULTS,
    *sources.FAULTS,
    *core_library.FAULTS,
    *kernels.FAULTS,
    *outputs.FAULTS,
    *pairs_of_backends.FAULTS,
    *production.FAULTS,
    *products.FAULTS,
    *compiled.FAULTS,
    *compiled_evaluation.FAULTS,
    *as_trained.FAULTS,
)

# Changes that no suite could tell from the right model, each with the reason.
EQUIVALENTS = {
    "positions that begin at 1": "rope depends on differences of positions only; learned "
    "positions, which depend on positions themselves, have a fault of their own",
    "positions that run on across packed documents, with rope": "the same: only differences "
    "inside a document count; the fault is planted with learned positions",
    "a softmax shifted by another constant than the maximum": "the shift cancels; what it "
    "prevents, overflow, has a fault of its own",
    "a gate multiplied from the left": "products commute",
    "a key bias left out, without rope": "it adds the same to every score of a query",
    "a decay of exactly zero weights": "zero times anything is zero",
    "masked scores of -1e4 where no score is near it": "exp(-1e4) is 0; planted with scores of 1e5",
}


# Of a fault that is called in another way than it was written for, which any law would "catch".
DOES_NOT_FIT = re.compile(
    r"^TypeError: .*(positional|keyword) argument|^AttributeError: (module|'(tuple|dict)' object) "
)


@dataclass(frozen=True)
class FaultResult:
    """A planted fault and whether its law caught it.

    part, law and case as in Fault; of a fault of the suite, law is 'control'. how: the error by
    which it was caught, or what happened instead.
    """

    fault: str
    part: str
    law: str
    case: str
    caught: bool
    how: str
    seconds: float


@dataclass(frozen=True)
class FaultSelection:
    """The faults to plant: of backends and the core library, and of the suite itself."""

    faults: tuple[Fault, ...] = FAULTS
    suite_faults: tuple[SuiteFault, ...] = SUITE_FAULTS


EVERY_FAULT = FaultSelection()


def index_laws() -> dict[str, Law]:
    """All laws by their ids."""
    return {law.id: law for law in list_laws()}


def index_cases() -> dict[tuple[str, str], Case]:
    """All cases by level and name, those of long runs included."""
    return {
        (level.name, case.name): case
        for long in (True, False)
        for level in LEVELS
        for case in level.make_cases(long)
    }


def select_faults(globs: tuple[str, ...]) -> FaultSelection:
    """The faults whose names match a glob; all without a glob.

    Raises HermesError for a glob that matches none.
    """
    names = [*(fault.name for fault in FAULTS), *(fault.name for fault in SUITE_FAULTS)]
    for glob in globs:
        if not any(fnmatchcase(name, glob) for name in names):
            raise HermesError(
                f"no fault is called {glob!r}; hermes conformance self-test prints their names"
            )
    if not globs:
        return EVERY_FAULT

    def matches(fault: Fault | SuiteFault) -> bool:
        return any(fnmatchcase(fault.name, glob) for glob in globs)

    return FaultSelection(tuple(filter(matches, FAULTS)), tuple(filter(matches, SUITE_FAULTS)))


def run_self_test(
    backends: Backends, selection: FaultSelection = EVERY_FAULT
) -> Iterator[FaultResult]:
    """Plant each fault that the subject can have, then each fault of the suite.

    Without the fault, its law must pass on its case: a law that fails anyway would catch anything.
    Faults whose law needs two learners are planted if the reference trains. Raises Unsupported for
    a subject that does not train or has another layout than our backends.
    """
    laws, cases = index_laws(), index_cases()
    sound: dict[tuple[object, ...], Outcome] = {}
    if not backends.subject.trains or not has_known_layout(backends.subject.name):
        raise Unsupported(
            "faults are planted in a backend that trains and is laid out as hermes_torch is; "
            f"hermes_{backends.subject.name} is not"
        )
    for fault in selection.faults:
        if fault.only not in (None, backends.subject.name):
            continue
        if fault.law in laws and not laws[fault.law].can_run(backends):
            continue
        began = time.perf_counter()
        if fault.law == "L1/canary":
            caught, how = _check_canary(backends, fault)
        else:
            law = laws[fault.law]
            case = cases[law.level, fault.case]
            key = (fault.law, fault.case, fault.under)
            if key not in sound:
                no_fault = replace(fault, plant=lambda patcher: None)
                judge = partial(judge_case, law, case, backends)
                sound[key] = _run_with_fault(backends, no_fault, judge)
            caught, how = _check_law(backends, fault, law, case, sound[key])
        seconds = time.perf_counter() - began
        yield FaultResult(fault.name, fault.part, fault.law, fault.case, caught, how, seconds)
    backends.subject.forget()
    if selection.suite_faults:
        yield from plant_suite_faults(backends, selection.suite_faults)


def _run_with_fault(backends: Backends, fault: Fault, run: Callable[[], T]) -> T:
    """The result of run() while the fault is planted in the subject."""
    with ExitStack() as stack:
        patcher = Patcher(backends.subject.name, stack)
        if fault.under:
            fault.under(patcher)
        fault.plant(patcher)
        backends.subject.forget()
        try:
            return run()
        finally:
            backends.subject.forget()


def _check_canary(backends: Backends, fault: Fault) -> tuple[bool, str]:
    """Whether the canary caught the fault, and how."""
    if (before := explain_refusal(backends.subject)) is not None:
        return False, f"refused without the fault: {before}"
    why = _run_with_fault(backends, fault, lambda: explain_refusal(backends.subject))
    return why is not None, why or "not refused"


def _check_law(
    backends: Backends, fault: Fault, law: Law, case: Case, sound: Outcome
) -> tuple[bool, str]:
    """Whether the law caught the fault, and how. sound: its outcome without the fault."""
    if sound.status != PASSED:
        return False, f"the law fails without the fault: {_describe_failure(sound)}"
    outcome = _run_with_fault(backends, fault, lambda: judge_case(law, case, backends))
    if outcome.status != FAILED:
        return False, f"{outcome.status}: {outcome.message or 'every measure within its bound'}"
    if DOES_NOT_FIT.search(outcome.message):
        return False, f"the fault does not fit what it is planted in: {outcome.message}"
    return True, _describe_failure(outcome)


def _describe_failure(outcome: Outcome) -> str:
    """The measure that a law found too large, or the error that stopped it."""
    if outcome.worst is None:
        return outcome.message or outcome.status
    worst = outcome.worst
    return f"{worst.where}: {worst.error:.1e}, bound {worst.bound.limit:.0e}"


def plant_suite_faults(backends: Backends, faults: tuple[SuiteFault, ...]) -> Iterator[FaultResult]:
    """Check the controls without a fault, then plant each of these faults of the suite."""
    began = time.perf_counter()
    unmet = _find_unmet_controls(backends)
    how = f"not met: {'; '.join(unmet)}" if unmet else "all met"
    seconds = time.perf_counter() - began
    name = "(no fault: every control is met)"
    yield FaultResult(name, "suite", "", "", not unmet, how, seconds)
    for fault in faults:
        began = time.perf_counter()
        with ExitStack() as stack:
            fault.plant(stack)
            try:
                unmet = _find_unmet_controls(backends)
            except Exception as error:
                unmet = [f"{type(error).__name__}: {error}"]
        seconds = time.perf_counter() - began
        how = unmet[0] if unmet else "every control was still met"
        yield FaultResult(fault.name, "suite", "control", "", bool(unmet), how, seconds)


def _find_unmet_controls(backends: Backends) -> list[str]:
    return [name for name, is_met in run_controls(backends).items() if not is_met]

"""Plants every fault in turn, and says which law caught it."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial

from hermes.errors import HermesError, Unsupported
from hermes_conformance.cases.case import Case
from hermes_conformance.faults import (
    attention,
    backward,
    blocks,
    cache,
    compiled,
    core_library,
    kernels,
    objectives,
    optimizer,
    pairs_of_backends,
    positions,
    production,
)
from hermes_conformance.faults.fault import Fault, Inside, laid_out
from hermes_conformance.faults.suite_faults import SUITE_FAULTS, SuiteFault, controls
from hermes_conformance.laws import LEVELS
from hermes_conformance.laws.canary import refusal
from hermes_conformance.measure.law import Law, Sides
from hermes_conformance.suite.runner import FAILED, PASSED, Outcome, run

FAULTS = (
    *positions.FAULTS,
    *attention.FAULTS,
    *blocks.FAULTS,
    *backward.FAULTS,
    *objectives.FAULTS,
    *optimizer.FAULTS,
    *cache.FAULTS,
    *core_library.FAULTS,
    *kernels.FAULTS,
    *pairs_of_backends.FAULTS,
    *production.FAULTS,
    *compiled.FAULTS,
)

EQUIVALENTS = {
    "positions that begin at 1": "rope sees differences of positions only; learned positions, "
    "which see them themselves, have a fault of their own",
    "positions that run on across packed documents, with rope": "the same: only differences "
    "inside a document count; the fault is planted with learned positions",
    "a softmax shifted by another constant than the maximum": "the shift cancels; what it guards "
    "from, overflow, has a fault of its own",
    "a gate multiplied from the left": "products commute",
    "a key bias left out, without rope": "it adds the same to every score of a query",
    "a decay of exactly zero weights": "zero times anything is zero",
    "masked scores of -1e4 where no score is near it": "exp(-1e4) is 0; planted with scores of 1e5",
}


@dataclass(frozen=True)
class Row:
    """A fault and how it fared. caught: by the law that had to; how: the error, or what went wrong.

    part, law and case as in Fault; of a suite fault, the control that noticed.
    """

    fault: str
    part: str
    law: str
    case: str
    caught: bool
    how: str
    seconds: float


def laws() -> dict[str, Law]:
    """Every law by its id."""
    return {law.id: law for level in LEVELS for law in level.laws}


def cases() -> dict[tuple[str, str], Case]:
    """Every case by level and name: of short runs, and what only long ones have."""
    return {
        (level.name, case.name): case
        for long in (True, False)
        for level in LEVELS
        for case in level.cases(long)
    }


@dataclass(frozen=True)
class FaultSelection:
    """Which faults to plant: of backends and of what stands above them, and of the suite itself."""

    faults: tuple[Fault, ...] = FAULTS
    of_suite: tuple[SuiteFault, ...] = SUITE_FAULTS


def planned(globs: tuple[str, ...]) -> FaultSelection:
    """The faults of these names; all without a glob. Raises HermesError for one that fits none."""
    for glob in globs:
        if not any(fnmatchcase(fault.name, glob) for fault in (*FAULTS, *SUITE_FAULTS)):
            raise HermesError(
                f"no fault is called {glob!r}; hermes conformance self-test prints their names"
            )
    if not globs:
        return FaultSelection()

    def named(fault: Fault | SuiteFault) -> bool:
        return any(fnmatchcase(fault.name, glob) for glob in globs)

    return FaultSelection(tuple(filter(named, FAULTS)), tuple(filter(named, SUITE_FAULTS)))


def self_test(sides: Sides, plan: FaultSelection = FaultSelection()) -> Iterator[Row]:
    """A row for every fault that can be planted in the subject, then for every fault of the suite.

    Without a fault, each law must pass on its case: else it would catch anything. Faults whose law
    needs another backend that trains are planted where the reference is one.
    """
    by_law, by_case = laws(), cases()
    sound: dict[tuple[object, ...], Outcome] = {}
    if not sides.subject.trains or not laid_out(sides.subject.name):
        raise Unsupported(
            f"faults are planted in a backend that trains and is laid out as the columns are; "
            f"hermes_{sides.subject.name} is not"
        )
    for fault in plan.faults:
        if fault.only not in (None, sides.subject.name):
            continue
        if fault.law in by_law and not by_law[fault.law].possible(sides):
            continue
        began = time.perf_counter()
        if fault.law == "L1/canary":
            caught, how = _refused(sides, fault)
        else:
            law = by_law[fault.law]
            case = by_case[law.level, fault.case]
            key = (fault.law, fault.case, fault.under)
            if key not in sound:
                plain = replace(fault, plant=lambda inside: None)
                sound[key] = _planted(sides, plain, partial(run, law, case, sides))
            caught, how = _caught(sides, fault, law, case, sound[key])
        seconds = time.perf_counter() - began
        yield Row(fault.name, fault.part, fault.law, fault.case, caught, how, seconds)
    sides.subject.forget()
    if plan.of_suite:
        yield from suite_rows(sides, plan.of_suite)


def _planted(sides: Sides, fault: Fault, then):
    with ExitStack() as stack:
        inside = Inside(sides.subject.name, stack)
        if fault.under:
            fault.under(inside)
        fault.plant(inside)
        sides.subject.forget()
        try:
            return then()
        finally:
            sides.subject.forget()


def _refused(sides: Sides, fault: Fault) -> tuple[bool, str]:
    if (before := refusal(sides.subject)) is not None:
        return False, f"refused without the fault: {before}"
    why = _planted(sides, fault, lambda: refusal(sides.subject))
    return why is not None, why or "not refused"


def _caught(sides: Sides, fault: Fault, law: Law, case: Case, sound: Outcome) -> tuple[bool, str]:
    if sound.status != PASSED:
        return False, f"the law fails without the fault: {sound.message or sound.status}"
    outcome = _planted(sides, fault, lambda: run(law, case, sides))
    if outcome.status != FAILED:
        return False, f"{outcome.status}: {outcome.message or 'every measure within its bound'}"
    if outcome.worst is None:
        return True, outcome.message
    worst = outcome.worst
    return True, f"{worst.where}: {worst.error:.1e}, bound {worst.bound.limit:.0e}"


def suite_rows(sides: Sides, faults: tuple[SuiteFault, ...]) -> Iterator[Row]:
    """A row for each of these faults of the suite, after one for the controls themselves."""
    began = time.perf_counter()
    unmet = [name for name, met in controls(sides).items() if not met]
    how = f"not met: {'; '.join(unmet)}" if unmet else "all met"
    seconds = time.perf_counter() - began
    yield Row("(no fault: every control is met)", "suite", "", "", not unmet, how, seconds)
    for fault in faults:
        began = time.perf_counter()
        with ExitStack() as stack:
            fault.plant(stack)
            try:
                unmet = [name for name, met in controls(sides).items() if not met]
            except Exception as error:
                unmet = [f"{type(error).__name__}: {error}"]
        seconds = time.perf_counter() - began
        noticed = unmet[0] if unmet else "every control was still met"
        yield Row(fault.name, "suite", "control", "", bool(unmet), noticed, seconds)

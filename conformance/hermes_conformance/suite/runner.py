"""Judge a backend: each selected law on each of its cases, with one outcome each."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from hermes.errors import HermesError, Unsupported
from hermes_conformance.cases.case import Case
from hermes_conformance.laws import Level
from hermes_conformance.laws.canary import explain_refusal
from hermes_conformance.measure.compare import Measurement
from hermes_conformance.measure.law import Law
from hermes_conformance.measure.subject import Backends
from hermes_conformance.suite.selection import EVERYTHING, Selection

PASSED, FAILED, DECLINED, EXPECTED = "passed", "failed", "declined", "expected"


@dataclass(frozen=True)
class Outcome:
    """One law on one case.

    worst: the measurement nearest to its bound, or furthest beyond. failures: all those beyond
    their bounds. message: why nothing was measured, or why a failure is expected. devices:
    those that the backend computed on. notes: what was seen beside the numbers.
    """

    law: Law
    case: str
    status: str
    worst: Measurement | None = None
    failures: tuple[Measurement, ...] = ()
    message: str = ""
    devices: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = field(default=0.0, compare=False)


def judge(backends: Backends, selection: Selection = EVERYTHING) -> Iterator[Outcome]:
    """Yield the outcomes of all selected levels."""
    for level in selection.list_levels():
        yield from judge_level(level, backends, selection)


def judge_level(
    level: Level, backends: Backends, selection: Selection = EVERYTHING
) -> Iterator[Outcome]:
    """Yield the outcome of each selected law on each selected case of a level.

    If a float64 level is refused, each law fails once. A law without any case fails too, unless the
    selection left its cases out.
    """
    laws = [law for law in level.laws if selection.has_law(law) and law.can_run(backends)]
    if laws and level.canary and (why := find_refusal(backends)) is not None:
        for law in laws:
            yield Outcome(law, "canary", FAILED, message=why)
        return
    long = is_judged_whole(level, backends, selection)
    judged = set()
    for case in filter(selection.has_case, level.make_cases(long)):
        for law in laws:
            if law.applies_to(case):
                judged.add(law)
                yield judge_case(law, case, backends)
    for law in laws:
        if law not in judged and selection.whole and (long or not law.long):
            yield Outcome(law, "", FAILED, message="the law has no case, so it says nothing")


def is_judged_whole(level: Level, backends: Backends, selection: Selection) -> bool:
    """Whether a level's cases are those of long runs: some are always, on devices for training."""
    on_device = backends.subject.device_name != "cpu"
    return selection.long or (level.whole_on_gpu and on_device)


def find_refusal(backends: Backends) -> str | None:
    """Why float64 cannot be judged here; None if it can.

    A backend that declines float64 as a whole is not refused: its laws decline case by case.
    """
    try:
        return explain_refusal(backends.subject) or explain_refusal(backends.reference)
    except Exception as error:
        return f"the canary itself failed: {describe_error(error)}"


def judge_case(law: Law, case: Case, backends: Backends) -> Outcome:
    """One law on one case: any exception is a failure, except Unsupported, which declines it."""
    began, used = time.perf_counter(), backends.subject.used_devices
    used.clear()

    def make_outcome(status: str, **fields: Any) -> Outcome:
        seconds = time.perf_counter() - began
        return Outcome(
            law, case.name, status, devices=tuple(sorted(used)), seconds=seconds, **fields
        )

    try:
        measurements = list(law.check(case, backends))
    except Unsupported as error:
        return make_outcome(DECLINED, message=str(error))
    except Exception as error:
        return make_outcome(FAILED, message=describe_error(error))
    if not measurements:
        return make_outcome(FAILED, message="the law measured nothing")
    worst = max(measurements, key=lambda measurement: measurement.ratio)
    failures = tuple(measurement for measurement in measurements if measurement.ratio > 1)
    notes = tuple(dict.fromkeys(one.note for one in measurements if one.note))
    status = FAILED if failures else PASSED
    return make_outcome(status, worst=worst, failures=failures, notes=notes)


def is_certified(outcomes: Iterable[Outcome], device: str) -> bool:
    """Whether a law that needs the backend passed on the device.

    Laws of the core library certify nothing, nor what ran on the CPU in a GPU's place.
    """
    return any(
        o.status == PASSED and o.law.needs != "no backend" and device in o.devices for o in outcomes
    )


def describe_error(error: Exception) -> str:
    """An exception's first line, after its type unless it is one of hermes's own."""
    text = (str(error).strip().splitlines() or [""])[0]
    return text if isinstance(error, HermesError) else f"{type(error).__name__}: {text}"

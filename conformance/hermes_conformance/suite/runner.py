"""Judges a backend: every chosen law on every case it applies to, one outcome each."""

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from hermes.errors import HermesError, Unsupported
from hermes_conformance.cases.case import Case
from hermes_conformance.laws import LEVELS, Level
from hermes_conformance.laws.canary import refusal
from hermes_conformance.measure.compare import Measure
from hermes_conformance.measure.law import Law, Sides

PASSED, FAILED, DECLINED, EXPECTED = "passed", "failed", "declined", "expected"
DTYPES = ("float32", "float64", "tf32", "bfloat16", "float16")


@dataclass(frozen=True)
class Selection:
    """What to run; () is everything.

    laws: globs of ids such as `L1/logits`; cases: globs of names; dtypes: what laws compute in.
    """

    levels: tuple[str, ...] = ()
    laws: tuple[str, ...] = ()
    cases: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    long: bool = False

    def of_levels(self) -> tuple[Level, ...]:
        """The chosen levels in order."""
        return tuple(level for level in LEVELS if not self.levels or level.name in self.levels)

    def takes_law(self, law: Law) -> bool:
        """Whether this law is chosen."""
        named = not self.laws or any(fnmatchcase(law.id, glob) for glob in self.laws)
        return named and (not self.dtypes or law.precision in self.dtypes)

    def takes_case(self, case: Case) -> bool:
        """Whether this case is chosen."""
        return not self.cases or any(fnmatchcase(case.name, glob) for glob in self.cases)

    @property
    def whole(self) -> bool:
        """Whether nothing is left out, so that a law without a case is a fault of the suite."""
        return not (self.laws or self.cases or self.dtypes)


@dataclass(frozen=True)
class Outcome:
    """One law on one case. worst: the measure nearest to its bound; message: why there is none."""

    law: Law
    case: str
    status: str
    worst: Measure | None = None
    failures: tuple[Measure, ...] = ()
    message: str = ""
    seconds: float = field(default=0.0, compare=False)


def judge(sides: Sides, selection: Selection = Selection()) -> Iterator[Outcome]:
    """Yield the outcome of every chosen law on every case; a level that refuses has one for all."""
    for level in selection.of_levels():
        yield from judge_level(level, sides, selection)


def judge_level(
    level: Level, sides: Sides, selection: Selection = Selection()
) -> Iterator[Outcome]:
    """The outcomes of one level."""
    laws = [law for law in level.laws if selection.takes_law(law) and law.possible(sides)]
    if laws and level.canary and (why := refused(sides)) is not None:
        for law in laws:
            yield Outcome(law, "canary", FAILED, message=why)
        return
    met = set()
    for case in filter(selection.takes_case, level.cases(selection.long)):
        for law in laws:
            if law.applies(case):
                met.add(law)
                yield run(law, case, sides)
    for law in laws:
        if law not in met and selection.whole and (selection.long or not law.long):
            yield Outcome(law, "", FAILED, message="the law met no case, so it says nothing")


def refused(sides: Sides) -> str | None:
    """Why float64 cannot be judged here. A backend that declines it does so case by case."""
    try:
        return refusal(sides.subject) or refusal(sides.reference)
    except Exception as error:
        return f"the canary itself failed: {describe(error)}"


def run(law: Law, case: Case, sides: Sides) -> Outcome:
    """One law on one case. Whatever goes wrong inside is a failure, but a refusal is declined."""
    began = time.perf_counter()

    def outcome(status, **fields) -> Outcome:
        return Outcome(law, case.name, status, seconds=time.perf_counter() - began, **fields)

    try:
        measures = list(law.check(case, sides))
    except Unsupported as refused:
        return outcome(DECLINED, message=str(refused))
    except Exception as error:
        return outcome(FAILED, message=describe(error))
    if not measures:
        return outcome(FAILED, message="the law measured nothing")
    worst = max(measures, key=lambda measure: measure.ratio)
    failures = tuple(measure for measure in measures if measure.ratio > 1)
    return outcome(FAILED if failures else PASSED, worst=worst, failures=failures)


def describe(error: Exception) -> str:
    """An exception in one line: its kind, unless it is hermes's own, and its first line."""
    text = (str(error).strip().splitlines() or [""])[0]
    return text if isinstance(error, HermesError) else f"{type(error).__name__}: {text}"

"""Failures that are known: a file of reasons, each with an end.

    [[xfail]]
    law = "L2/gradients"          # a glob
    case = "attention.softcap*"   # a glob
    reason = "the fused kernel accumulates in bfloat16"
    expires = 2027-06-30
    limit = 3.0                   # optional: only while within so many times the bound, at most 4

An entry whose cases all pass is stale, and one past its day counts for nothing: both fail the run,
so that the file cannot outlive its reasons. So does one that no case of the suite could ever meet,
unless the run was narrowed.
"""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hermes.errors import HermesError
from hermes_conformance.laws import LEVELS, Level
from hermes_conformance.suite.runner import EXPECTED, FAILED, Outcome, Selection

GREATEST = 4.0


@dataclass(frozen=True)
class ExpectedFailure:
    """A known failure. limit: in bounds, None for any size."""

    law: str
    case: str
    reason: str
    expires: date
    limit: float | None = None

    def covers(self, outcome: Outcome) -> bool:
        """Whether it speaks of this law and case."""
        return fnmatchcase(outcome.law.id, self.law) and fnmatchcase(outcome.case, self.case)

    def excuses(self, outcome: Outcome) -> bool:
        """Whether a failure is within what was foreseen."""
        if self.limit is None:
            return True
        return outcome.worst is not None and outcome.worst.ratio <= self.limit


def read_waivers(path: Path) -> tuple[ExpectedFailure, ...]:
    """The entries of an xfail file. Raises HermesError for what is missing or too generous, and for
    a law that no law is called.
    """
    try:
        value = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise HermesError(f"{path}: not TOML: {error}") from None
    found = value.get("xfail", [])
    if set(value) - {"xfail"} or not isinstance(found, list):
        raise HermesError(f"{path}: expected [[xfail]] entries only")
    return tuple(_entry(path, number, entry) for number, entry in enumerate(found, 1))


def _entry(path: Path, number: int, entry: Any) -> ExpectedFailure:
    where = f"{path}: entry {number}"
    if not isinstance(entry, dict):
        raise HermesError(f"{where} is {entry!r:.40}; expected [[xfail]] with its keys below")
    wanted = {"law": str, "case": str, "reason": str, "expires": date}
    for name, kind in wanted.items():
        value = entry.get(name)
        if not isinstance(value, kind) or isinstance(value, datetime) or value == "":
            raise HermesError(f"{where} needs {name}, which is a {kind.__name__}")
    limit = entry.get("limit")
    if limit is not None and not (isinstance(limit, int | float) and 1 < limit <= GREATEST):
        raise HermesError(f"{where}: limit is {limit!r}; it must be above 1 and at most {GREATEST}")
    if extra := set(entry) - {*wanted, "limit"}:
        raise HermesError(f"{where}: unknown key {min(extra)!r}")
    made = ExpectedFailure(**entry)
    if not any(fnmatchcase(law.id, made.law) for level in LEVELS for law in level.laws):
        raise HermesError(
            f"{where}: no law is called {made.law!r}; see hermes conformance list for the names"
        )
    return made


def excused(
    outcomes: Iterable[Outcome], waivers: tuple[ExpectedFailure, ...], today: date
) -> tuple[list[Outcome], list[str]]:
    """The outcomes with known failures marked as such, and what is wrong with the file itself."""
    made, failed, met = [], set(), set()
    current = [waiver for waiver in waivers if waiver.expires >= today]
    for outcome in outcomes:
        for waiver in current:
            if waiver.covers(outcome):
                met.add(waiver)
                if outcome.status == FAILED:
                    failed.add(waiver)
                    if waiver.excuses(outcome):
                        outcome = replace(outcome, status=EXPECTED, message=waiver.reason)
        made.append(outcome)
    complaints = [
        f"{w.law} on {w.case} was expected to fail and passes; remove it from the xfail file"
        for w in current
        if w in met and w not in failed
    ]
    complaints += [
        f"{w.law} on {w.case} was expected to fail until {w.expires} only"
        for w in waivers
        if w.expires < today
    ]
    return made, complaints


def strays(waivers: Iterable[ExpectedFailure], selection: Selection) -> list[str]:
    """A complaint for each entry that no case of its law fits, the long ones included.

    None where the run was narrowed; an entry of a level that was not chosen is let be.
    """
    if not selection.whole:
        return []
    return [
        f"{w.law} on {w.case} fits no case; see hermes conformance list --cases --long"
        for w in waivers
        if (levels := _levels_of(w, selection)) and not any(_met(w, level) for level in levels)
    ]


def _levels_of(waiver: ExpectedFailure, selection: Selection) -> list[Level]:
    return [
        level
        for level in selection.of_levels()
        if any(fnmatchcase(law.id, waiver.law) for law in level.laws)
    ]


def _met(waiver: ExpectedFailure, level: Level) -> bool:
    if level.canary and fnmatchcase("canary", waiver.case):
        return True
    laws = [law for law in level.laws if fnmatchcase(law.id, waiver.law)]
    named = [case for case in level.cases(True) if fnmatchcase(case.name, waiver.case)]
    return any(law.applies(case) for law in laws for case in named)

"""Expected failures: a file of known ones, each with its reason and an end.

    [[xfail]]
    law = "L2/gradients"          # a glob
    case = "attention.softcap*"   # a glob
    reason = "the fused kernel accumulates in bfloat16"
    expires = 2027-06-30
    limit = 3.0                   # optional: only while within so many times the bound, at most 4

An entry whose cases all pass is stale, and one past its day counts for nothing: both fail the run,
so that the file cannot outlive its reasons. So does an entry that matches no case of the suite,
unless the run is narrowed.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from hermes.errors import HermesError
from hermes_conformance.laws import Level, list_laws
from hermes_conformance.suite.runner import EXPECTED, FAILED, Outcome
from hermes_conformance.suite.selection import Selection
from hermes_conformance.suite.toml_entries import read_entries

MAX_LIMIT = 4.0


@dataclass(frozen=True)
class ExpectedFailure:
    """An entry. limit: the largest error it excuses, in bounds; None for any size."""

    law: str
    case: str
    reason: str
    expires: date
    limit: float | None = None

    @property
    def name(self) -> str:
        """`L2/gradients on attention.softcap*`."""
        return f"{self.law} on {self.case}"

    def is_about(self, outcome: Outcome) -> bool:
        """Whether the entry's globs match the outcome's law and case."""
        return fnmatchcase(outcome.law.id, self.law) and fnmatchcase(outcome.case, self.case)

    def can_excuse(self, outcome: Outcome) -> bool:
        """Whether a failure is within the entry's limit."""
        if self.limit is None:
            return True
        return outcome.worst is not None and outcome.worst.ratio <= self.limit


def read_expected_failures(path: Path) -> tuple[ExpectedFailure, ...]:
    """The entries of an xfail file.

    Raises HermesError for a missing or unknown key, a limit that is too large, and an unknown law.
    """
    entries = enumerate(read_entries(path, "xfail"), 1)
    return tuple(_parse_entry(path, number, entry) for number, entry in entries)


def _parse_entry(path: Path, number: int, entry: Any) -> ExpectedFailure:
    where = f"{path}: entry {number}"
    if not isinstance(entry, dict):
        raise HermesError(f"{where} is {entry!r:.40}; expected [[xfail]] with its keys below")
    required = {"law": str, "case": str, "reason": str, "expires": date}
    for name, kind in required.items():
        value = entry.get(name)
        if not isinstance(value, kind) or isinstance(value, datetime) or value == "":
            raise HermesError(f"{where} needs {name}, which is a {kind.__name__}")
    limit = entry.get("limit")
    if limit is not None and not (isinstance(limit, int | float) and 1 < limit <= MAX_LIMIT):
        raise HermesError(
            f"{where}: limit is {limit!r}; it must be above 1 and at most {MAX_LIMIT}"
        )
    if extra := set(entry) - {*required, "limit"}:
        raise HermesError(f"{where}: unknown key {min(extra)!r}")
    failure = ExpectedFailure(**entry)
    if not any(fnmatchcase(law.id, failure.law) for law in list_laws()):
        raise HermesError(
            f"{where}: no law is called {failure.law!r}; see hermes conformance list for the names"
        )
    return failure


def excuse(
    outcomes: Iterable[Outcome],
    expected: tuple[ExpectedFailure, ...],
    today: date | None = None,
) -> tuple[list[Outcome], list[str]]:
    """The outcomes with expected failures marked, and complaints about entries out of date.

    today: the date to judge entries by; None for the present one.
    """
    now = today or date.today()
    marked, failed, met = [], set(), set()
    current = [entry for entry in expected if entry.expires >= now]
    for outcome in outcomes:
        for entry in current:
            if entry.is_about(outcome):
                met.add(entry)
                if outcome.status == FAILED:
                    failed.add(entry)
                    if entry.can_excuse(outcome):
                        outcome = replace(outcome, status=EXPECTED, message=entry.reason)
        marked.append(outcome)
    complaints = [
        f"{entry.name} was expected to fail and passes; remove it from the xfail file"
        for entry in current
        if entry in met and entry not in failed
    ]
    complaints += [
        f"{entry.name} was expected to fail until {entry.expires} only"
        for entry in expected
        if entry.expires < now
    ]
    return marked, complaints


def find_unmatched(expected: Iterable[ExpectedFailure], selection: Selection) -> list[str]:
    """A complaint for each entry that matches no case of its law, long ones included.

    None if the run is narrowed. Entries of levels that are not selected are left alone.
    """
    if not selection.whole:
        return []
    complaints = []
    for entry in expected:
        levels = _select_levels(entry, selection)
        if levels and not any(_has_match(entry, level) for level in levels):
            complaints.append(
                f"{entry.name} fits no case; see hermes conformance list --cases --long"
            )
    return complaints


def _select_levels(entry: ExpectedFailure, selection: Selection) -> list[Level]:
    """The selected levels that have a law the entry is about."""
    return [
        level
        for level in selection.list_levels()
        if any(fnmatchcase(law.id, entry.law) for law in level.laws)
    ]


def _has_match(entry: ExpectedFailure, level: Level) -> bool:
    if level.canary and fnmatchcase("canary", entry.case):
        return True
    laws = [law for law in level.laws if fnmatchcase(law.id, entry.law)]
    cases = [case for case in level.make_cases(True) if fnmatchcase(case.name, entry.case)]
    return any(law.applies_to(case) for law in laws for case in cases)

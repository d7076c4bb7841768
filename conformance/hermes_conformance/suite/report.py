"""What a run prints: a line for each law, and what it takes to look into each failure."""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hermes_conformance.measure.compare import Measurement
from hermes_conformance.measure.law import Law
from hermes_conformance.suite.runner import DECLINED, EXPECTED, FAILED, PASSED, Outcome

STATUSES = (PASSED, FAILED, DECLINED, EXPECTED)


@dataclass(frozen=True)
class LawReport:
    """A law's outcomes on all its cases."""

    law: Law
    outcomes: tuple[Outcome, ...]

    def count(self, status: str) -> int:
        """The number of cases with this status."""
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def worst(self) -> tuple[Measurement, str] | None:
        """The measurement nearest to its bound, or furthest beyond, and its case."""
        found = [(o.worst, o.case) for o in self.outcomes if o.worst is not None]
        return max(found, key=lambda pair: pair[0].ratio, default=None)

    @property
    def notes(self) -> dict[str, list[str]]:
        """What was seen beside the numbers, and the cases it was seen in."""
        found: dict[str, list[str]] = {}
        for outcome in self.outcomes:
            for note in outcome.notes:
                found.setdefault(note, []).append(outcome.case)
        return found

    @property
    def seconds(self) -> float:
        """Time spent in the law."""
        return sum(outcome.seconds for outcome in self.outcomes)


def group_by_law(outcomes: Iterable[Outcome]) -> list[LawReport]:
    """A report for each law, in the order in which the laws first appear."""
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        groups.setdefault(outcome.law.id, []).append(outcome)
    return [LawReport(group[0].law, tuple(group)) for group in groups.values()]


def format_number(value: float) -> str:
    """Two digits: 3.1e-14, 0, inf."""
    return "0" if value == 0 else f"{value:.2g}" if value >= 0.01 else f"{value:.1e}"


def format_law(report: LawReport) -> str:
    """`logits  342 cases  worst 1.3e-14, bound 1e-11 rms  (crossed.125/hot: logits[1, 7])`."""
    cases = len(report.outcomes)
    words = [f"  {report.law.name:<14}{cases:>5} case{'s' if cases != 1 else ' '}"]
    if failed := report.count(FAILED):
        words.append(f"  {failed} FAILED")
    if declined := report.count(DECLINED):
        words.append(f"  {declined} declined")
    if expected := report.count(EXPECTED):
        words.append(f"  {expected} expected")
    if report.worst is not None:
        measurement, case = report.worst
        bound = measurement.bound
        words.append(
            f"  worst {format_number(measurement.error)}, bound {format_number(bound.limit)} "
            f"{bound.unit}"
        )
        if measurement.error > 0:
            words.append(f"  ({case}: {measurement.where})")
    words += [f"\n    {note}  ({', '.join(cases)})" for note, cases in report.notes.items()]
    return "".join(words)


def format_failure(outcome: Outcome, rerun: list[str]) -> Iterator[str]:
    """The lines about a failed outcome. rerun: the run's command line, without laws and cases."""
    yield f"FAILED {outcome.law.id}: {outcome.law.statement}"
    yield f"  case   {outcome.case}"
    for measurement in outcome.failures[:3]:
        shape = f" {measurement.shape}" if measurement.shape else ""
        at = f" at {list(measurement.index)}" if measurement.index else ""
        yield f"  tensor {measurement.tensor}{shape}{at}"
        bound = measurement.bound
        yield (
            f"  error  {format_number(measurement.error)}, bound {format_number(bound.limit)} "
            f"{bound.unit}"
        )
    if len(outcome.failures) > 3:
        yield f"  and {len(outcome.failures) - 3} more"
    if outcome.message:
        yield f"  reason {outcome.message}"
    yield f"  again  {make_rerun_command(outcome, rerun)}"


def make_run_command(
    names: tuple[str, str, str | None], dtypes: tuple[str, ...] = (), long: bool = False
) -> list[str]:
    """The words of a run's command line, without its laws and cases.

    names: of the subject, of the reference, and of the device or None.
    """
    backend, against, device = names
    words = ["hermes", "conformance", "run", "--backend", backend, "--against", against]
    words += ["--device", device] if device else []
    words += [word for dtype in dtypes for word in ("--dtype", dtype)]
    return words + (["--long"] if long else [])


def make_rerun_command(outcome: Outcome, rerun: list[str]) -> str:
    """The command that runs only this law on this case."""
    words = [*rerun, "--law", outcome.law.id]
    if outcome.worst is not None or outcome.case not in ("", "canary"):
        words += ["--case", outcome.case]
    return shlex.join(words)


def count_outcomes(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """The number of outcomes of each status."""
    every = list(outcomes)
    return {status: sum(o.status == status for o in every) for status in STATUSES}

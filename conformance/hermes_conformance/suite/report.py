"""What a run says: one line per law, and of every failure all that is needed to look at it."""

import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from hermes_conformance.measure.compare import Measure
from hermes_conformance.measure.law import Law
from hermes_conformance.suite.runner import DECLINED, EXPECTED, FAILED, PASSED, Outcome

KINDS = (PASSED, FAILED, DECLINED, EXPECTED)


@dataclass(frozen=True)
class LawReport:
    """A law over all its cases. worst: the measure nearest to its bound, and its case."""

    law: Law
    outcomes: tuple[Outcome, ...]

    def count(self, status: str) -> int:
        """How many cases ended so."""
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def worst(self) -> tuple[Measure, str] | None:
        """The measure nearest to its bound, or furthest beyond, and the case it was in."""
        found = [(o.worst, o.case) for o in self.outcomes if o.worst is not None]
        return max(found, key=lambda pair: pair[0].ratio, default=None)

    @property
    def seconds(self) -> float:
        """Time spent in the law."""
        return sum(outcome.seconds for outcome in self.outcomes)


def by_law(outcomes: Iterable[Outcome]) -> list[LawReport]:
    """Outcomes gathered law by law, in the order the laws first appear."""
    gathered: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        gathered.setdefault(outcome.law.id, []).append(outcome)
    return [LawReport(found[0].law, tuple(found)) for found in gathered.values()]


def number(value: float) -> str:
    """Two digits: 3.1e-14, 0, inf."""
    return "0" if value == 0 else f"{value:.2g}" if value >= 0.01 else f"{value:.1e}"


def law_line(report: LawReport) -> str:
    """`logits  342 cases  worst 1.3e-14, bound 1e-11 rms  in crossed.125/hot at logits[1, 7]`."""
    cases = len(report.outcomes)
    words = [f"  {report.law.name:<14}{cases:>5} case{'s' if cases != 1 else ' '}"]
    if failed := report.count(FAILED):
        words.append(f"  {failed} FAILED")
    if declined := report.count(DECLINED):
        words.append(f"  {declined} declined")
    if expected := report.count(EXPECTED):
        words.append(f"  {expected} expected")
    if report.worst is not None:
        measure, case = report.worst
        words.append(
            f"  worst {number(measure.error)}, bound {number(measure.bound.limit)} "
            f"{measure.bound.unit}"
        )
        if measure.error > 0:
            words.append(f"  ({case}: {measure.where})")
    return "".join(words)


def failure_lines(outcome: Outcome, rerun: list[str]) -> Iterator[str]:
    """A failed outcome in full. rerun: the command line that the run was started with, bare."""
    yield f"FAILED {outcome.law.id}: {outcome.law.says}"
    yield f"  case   {outcome.case}"
    for measure in outcome.failures[:3]:
        shape = f" {measure.shape}" if measure.shape else ""
        at = f" at {list(measure.index)}" if measure.index else ""
        yield f"  tensor {measure.tensor}{shape}{at}"
        yield (
            f"  error  {number(measure.error)}, bound {number(measure.bound.limit)} "
            f"{measure.bound.unit}"
        )
    if len(outcome.failures) > 3:
        yield f"  and {len(outcome.failures) - 3} more"
    if outcome.message:
        yield f"  reason {outcome.message}"
    yield f"  again  {rerun_command(outcome, rerun)}"


def rerun_command(outcome: Outcome, rerun: list[str]) -> str:
    """The one command that runs this law on this case alone."""
    words = [*rerun, "--law", outcome.law.id]
    if outcome.worst is not None or outcome.case not in ("", "canary"):
        words += ["--case", outcome.case]
    return shlex.join(words)


def verdict(outcomes: Iterable[Outcome]) -> dict[str, int]:
    """How many outcomes of each kind."""
    found = list(outcomes)
    return {kind: sum(o.status == kind for o in found) for kind in KINDS}

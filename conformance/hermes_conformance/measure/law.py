"""A law: a statement that must hold for every case it applies to, and how to measure it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from hermes_conformance.cases.case import Case
from hermes_conformance.measure.compare import Measurement
from hermes_conformance.measure.subject import Backends
from hermes_conformance.measure.tolerance import Bound

Check = Callable[[Case, Backends], Iterable[Measurement]]
CasePredicate = Callable[[Case], bool]
Needs = Literal["no backend", "forward", "learner", "two learners", "one learner"]


def match_names(*prefixes: str) -> CasePredicate:
    """A predicate of cases whose names begin with one of the prefixes."""
    return lambda case: case.name.startswith(prefixes)


match_all = match_names("")


@dataclass(frozen=True)
class Law:
    """name: unique in its level. bound: of the measurement that the law is named after.

    applies_to: which of the level's cases. needs: what the backends must have: 'forward', 'learner'
    (the subject trains), 'two learners' (the reference trains too), 'one learner' (the subject
    trains and the reference does not), or 'no backend' for laws of the core library. precision:
    the format it computes in, for --dtype; None for laws that compute in none or in several. long:
    its cases are run by --long only.
    """

    level: str
    name: str
    statement: str
    bound: Bound
    check: Check
    applies_to: CasePredicate = match_all
    needs: Needs = "forward"
    precision: str | None = "float64"
    long: bool = False

    @property
    def id(self) -> str:
        """`L1/logits`."""
        return f"{self.level}/{self.name}"

    def can_run(self, backends: Backends) -> bool:
        """Whether these backends have what the law needs."""
        match self.needs:
            case "two learners":
                return backends.both_train
            case "one learner":
                return backends.subject.trains and not backends.reference.trains
            case "learner":
                return backends.subject.trains
        return True

"""A law: one sentence that must hold for every case it applies to, and how to measure it."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hermes_conformance.cases.case import Case
from hermes_conformance.measure.compare import Measure
from hermes_conformance.measure.subject import BackendUnderTest
from hermes_conformance.measure.tolerance import Bound


@dataclass(frozen=True)
class Sides:
    """Who is judged, against whom, and the oracle, which may be that one."""

    subject: BackendUnderTest
    reference: BackendUnderTest
    oracle: BackendUnderTest

    @property
    def peers(self) -> bool:
        """Whether the reference trains too, so that gradients can be compared whole."""
        return self.subject.trains and self.reference.trains


Check = Callable[[Case, Sides], Iterable[Measure]]


def always(case: Case) -> bool:
    """Every case of the level."""
    return True


@dataclass(frozen=True)
class Law:
    """name: unique in its level. says: the law in a sentence. bound: of its usual measure.

    applies: to which of the level's cases. needs: 'forward', 'learner' (the subject trains),
    'peer' (the reference trains too), 'alone' (the subject trains, the reference does not), or
    'nothing' of any backend: it judges what stands above them.
    precision: what the law computes in, for --dtype; None for neither here nor there. long: the
    law has no case in a short run.
    """

    level: str
    name: str
    says: str
    bound: Bound
    check: Check
    applies: Callable[[Case], bool] = always
    needs: str = "forward"
    precision: str | None = "float64"
    long: bool = False

    @property
    def id(self) -> str:
        """`L1/logits`."""
        return f"{self.level}/{self.name}"

    def possible(self, sides: Sides) -> bool:
        """Whether these two sides have what the law needs."""
        match self.needs:
            case "peer":
                return sides.peers
            case "alone":
                return sides.subject.trains and not sides.reference.trains
            case "learner":
                return sides.subject.trains
        return True

"""Where two backends part: the first tensor of the forward passes, or of the gradients."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hermes.params import parameters
from hermes_conformance import differences
from hermes_conformance.case import Case
from hermes_conformance.compare import Measure, relative, rms
from hermes_conformance.law import Sides
from hermes_conformance.laws.gradients import vanishing
from hermes_conformance.taps import CACHED, DROPPED, WHOLE, Way, trace
from hermes_conformance.tolerance import Bound

AXES = {
    4: ("row", "head", "position", "element"),
    3: ("row", "position", "element"),
    2: ("row", "column"),
    1: ("element",),
}


@dataclass(frozen=True)
class Parting:
    """The first tensor beyond the bound: which, where in it, and by how much of its rms."""

    tensor: str
    place: str
    error: float
    compared: int
    of: int

    def __str__(self) -> str:
        place = f", {self.place}" if self.place else ""
        error = "" if np.isinf(self.error) else f", relative error {self.error:.0e}"
        return f"{self.tensor}{place}{error}"


def place(shape: tuple[int, ...], index: tuple[int, ...]) -> str:
    """`row 0, head 2, position 17, element 3`."""
    names = AXES.get(len(shape), tuple(f"axis {n}" for n in range(len(shape))))
    return ", ".join(f"{name} {at}" for name, at in zip(names, index, strict=False))


def _parting(measure: Measure, compared: int, of: int) -> Parting:
    where = place(measure.shape, measure.index)
    return Parting(measure.tensor, where, measure.error, compared, of)


def ways(sides: Sides, case: Case) -> tuple[Way, ...]:
    """The ways through the model that the case has: a whole pass, an update's dropout, a cache."""
    dropped = case.dropout and sides.subject.trains and case.recipe.lora is None
    return (WHOLE, *((DROPPED,) if dropped else ()), *((CACHED,) if case.decodes else ()))


def forward(
    sides: Sides, case: Case, bound: Bound, precision: str = "float64", way: Way = WHOLE
) -> Parting | None:
    """The first intermediate tensor that parts; None if none does.

    The reference computes in float64 whatever the subject does. Raises Unsupported.
    """
    # What does not train has no update; the oracle has its masks all the same.
    other = sides.oracle if way == DROPPED and not sides.reference.trains else sides.reference
    got, expected = trace(sides.subject, case, precision, way), trace(other, case, way=way)
    for number, (one, other) in enumerate(zip(got, expected, strict=False)):
        if one.name != other.name:
            what = f"{one.name} where {other.name} was due"
            return Parting(what, "", np.inf, number + 1, len(got))
        measure = relative(one.name, one.value, other.value, bound)
        if measure.ratio > 1:
            return _parting(measure, number + 1, len(got))
    if len(got) != len(expected):
        longer = max(got, expected, key=len)[min(len(got), len(expected))]
        return Parting(f"{longer.name} on one side only", "", np.inf, len(got), len(got))
    return None


def backward(sides: Sides, case: Case, bound: Bound) -> Parting | None:
    """The first gradient that parts, from the output backwards; None if none does.

    Against a backend that trains, element by element; against the oracle, by each tensor's
    derivative along one direction.
    """
    measures = list(_gradients(sides, case, bound))
    for number, measure in enumerate(measures):
        if measure.ratio > 1:
            return _parting(measure, number + 1, len(measures))
    return None


def _gradients(sides: Sides, case: Case, bound: Bound) -> Iterator[Measure]:
    _, got = sides.subject.grads(case)
    names = [name for name in reversed(list(parameters(case.spec))) if name in got]
    names += [name for name in got if name not in names]
    names = [name for name in names if vanishing(case, name) is None]
    if sides.peers:
        _, expected = sides.reference.grads(case)
        for name in names:
            yield relative(f"gradient of {name}", got[name], expected[name], bound)
        return
    toward = differences.direction(case, 0)
    for name in names:
        along = {name: toward[name]}
        _, slope = differences.loss_and_slope(
            case.spec, case.params, along, case.batch, case.dropout, case.recipe
        )
        size = max(differences.natural_size(got, along), abs(slope)) or rms(got[name]) or 1.0
        found = float((got[name] * toward[name]).sum())
        yield relative(f"gradient of {name}", found, slope, bound, scale=size)

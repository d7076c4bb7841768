"""Where two backends part: the first tensor of the forward passes, the loss, or a gradient."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hermes_conformance.bisect.activations import CACHED, DROPPED, WHOLE, Way, trace
from hermes_conformance.cases.case import Case
from hermes_conformance.laws.gradients import size_of, vanishing
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measure, absolute, relative, rms
from hermes_conformance.measure.law import Sides
from hermes_conformance.measure.tolerance import Bound
from hermes_conformance.oracle import complex_step
from hermes_conformance.suite.report import number
from hermes_conformance.suite.selection import every_law

AXES = {
    4: ("row", "head", "position", "element"),
    3: ("row", "position", "element"),
    2: ("row", "column"),
    1: ("element",),
}

GRADIENTS = {"float64": tolerance.GRADIENT_64, "float32": tolerance.GRADIENT_32}
LOSSES = {"float64": tolerance.LOSS_64, "float32": tolerance.LOSS_32}


@dataclass(frozen=True)
class Parting:
    """The first tensor beyond the bound: which, where in it, and by how much of its rms."""

    tensor: str
    place: str
    error: float
    compared: int
    of: int
    unit: str = "rms"

    def __str__(self) -> str:
        place = f", {self.place}" if self.place else ""
        error = f", relative error {self.error:.0e}"
        if self.unit == "nats":
            error = f", {self.error:.0e} nats apart"
        error = "" if np.isinf(self.error) else error
        return f"{self.tensor}{place}{error}"


def place(shape: tuple[int, ...], index: tuple[int, ...]) -> str:
    """`row 0, head 2, position 17, element 3`."""
    names = AXES.get(len(shape), tuple(f"axis {n}" for n in range(len(shape))))
    return ", ".join(f"{name} {at}" for name, at in zip(names, index, strict=False))


def _parting(measure: Measure, compared: int, of: int) -> Parting:
    where = place(measure.shape, measure.index)
    return Parting(measure.tensor, where, measure.error, compared, of, measure.bound.unit)


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
    for count, (one, other) in enumerate(zip(got, expected, strict=False)):
        if one.name != other.name:
            what = f"{one.name} where {other.name} was due"
            return Parting(what, "", np.inf, count + 1, len(got))
        measure = relative(one.name, one.value, other.value, bound)
        if measure.ratio > 1:
            return _parting(measure, count + 1, len(got))
    if len(got) != len(expected):
        longer = max(got, expected, key=len)[min(len(got), len(expected))]
        return Parting(f"{longer.name} on one side only", "", np.inf, len(got), len(got))
    return None


def backward(sides: Sides, case: Case, precision: str = "float64") -> Parting | None:
    """The loss, or the first gradient that parts on the way back from it; None if none does.

    precision: the subject's, of GRADIENTS. Against a backend that trains, element by element;
    against the oracle, by each tensor's derivative along one direction. Raises Unsupported.
    """
    _, got = sides.subject.grads(case, precision)
    measures = [_loss(sides, case, precision)]
    compare = _whole if sides.peers else _sloped
    for name in reached(sides, case, got):
        if vanishing(case, name) is None:
            measures.append(compare(sides, case, name, precision))
    for count, measure in enumerate(measures, 1):
        if measure.ratio > 1:
            return _parting(measure, count, len(measures))
    return None


def withheld(sides: Sides, case: Case, precision: str) -> str:
    """Why the loss and gradients are not compared; '' if they are."""
    if not sides.subject.trains:
        return f"{sides.subject.name} has no gradients"
    if precision not in GRADIENTS:
        return f"the loss and gradients are not compared in {precision}"
    judging = "L1/gradients" if sides.peers else "L1/derivatives"
    law = next(law for law in every_law() if law.id == judging)
    if not law.applies(case):
        return f"the loss and gradients are not compared, as {judging} has no such case"
    return ""


def within(sides: Sides, case: Case, precision: str) -> str:
    """How near tensors must be to agree, and what is not compared."""
    said = f"within {_said(tolerance.PARTS[precision])}"
    if why := withheld(sides, case, precision):
        return f"{said}; {why}"
    loss, gradients = LOSSES[precision], GRADIENTS[precision]
    return f"{said}, the loss within {_said(loss)}, gradients within {_said(gradients)}"


def _said(bound: Bound) -> str:
    return f"{number(bound.limit)} {bound.unit}"


def reached(sides: Sides, case: Case, names: Iterable[str]) -> list[str]:
    """Names of tensors as the way back reaches them: those of the forward pass in reverse.

    A tensor is where its module's last result is, but a module's of several results (attention's)
    where the last of those inside it is. A tied embedding is reached whole only at its other end.
    """
    places: dict[str, int] = {}
    for at, record in enumerate(trace(sides.subject, case)):
        if record.what or record.path not in places:
            places[record.path] = at

    def place(name: str) -> int:
        path = name
        while path and path not in places:
            path = path.rpartition(".")[0]
        return places.get(path, -1)

    return sorted(names, key=place, reverse=True)


def _loss(sides: Sides, case: Case, precision: str) -> Measure:
    found, _ = sides.subject.grads(case, precision)
    if sides.peers:
        expected, _ = sides.reference.grads(case)
    else:
        toward = complex_step.direction(case, 0)
        expected, _ = _slope(case, toward)
    bound = LOSSES[precision]
    if bound.unit == "nats":
        return absolute("loss", found, expected, bound.scaled(expected))
    return relative("loss", found, expected, bound, max(1.0, abs(expected)))


def _whole(sides: Sides, case: Case, name: str, precision: str) -> Measure:
    """A gradient beside another backend's.

    As in L2, float32 rounds one of few rows beside its peak, and one that vanishes beside the rest.
    """
    got, expected = sides.subject.grads(case, precision)[1], sides.reference.grads(case)[1]
    size = size_of(expected, name)
    if precision == "float32":
        size = max(size, float(np.abs(expected[name]).max()) / 10)
    size = size or rms(np.concatenate([value.ravel() for value in expected.values()]))
    what = f"gradient of {name}"
    return relative(what, got[name], expected[name], GRADIENTS[precision], size or None)


def _sloped(sides: Sides, case: Case, name: str, precision: str) -> Measure:
    """A gradient along one direction beside the oracle's derivative."""
    _, got = sides.subject.grads(case, precision)
    along = {name: complex_step.direction(case, 0)[name]}
    _, slope = _slope(case, along)
    size = max(complex_step.natural_size(got, along), abs(slope)) or rms(got[name]) or 1.0
    found = float((got[name] * along[name]).sum())
    return relative(f"gradient of {name}", found, slope, GRADIENTS[precision], scale=size)


def _slope(case: Case, along: complex_step.Vectors) -> tuple[float, float]:
    return complex_step.loss_and_slope(
        case.spec, case.params, along, case.batch, case.dropout, case.recipe
    )

"""The first tensor in which two backends differ: an activation, the loss, or a gradient."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from hermes_conformance.bisect.activations import trace
from hermes_conformance.bisect.computations import DECODING, DROPOUT, FORWARD, Computation
from hermes_conformance.cases.case import Case
from hermes_conformance.laws import list_laws
from hermes_conformance.laws.gradients import choose_scale, has_gradient
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import (
    Measurement,
    compare_absolute,
    compare_relative,
    rms,
)
from hermes_conformance.measure.subject import Backends
from hermes_conformance.measure.tolerance import Bound
from hermes_conformance.oracle import complex_step
from hermes_conformance.suite.report import format_number

AXES = {
    4: ("row", "head", "position", "element"),
    3: ("row", "position", "element"),
    2: ("row", "column"),
    1: ("element",),
}

GRADIENTS = {"float64": tolerance.GRADIENT_64, "float32": tolerance.GRADIENT_32}
LOSSES = {"float64": tolerance.LOSS_64, "float32": tolerance.LOSS_32}


@dataclass(frozen=True)
class Difference:
    """The first tensor beyond its bound, the place of its largest error, and the error.

    compared: how many tensors were compared, this one included, of `total`.
    """

    tensor: str
    place: str
    error: float
    compared: int
    total: int
    unit: str = "rms"

    def __str__(self) -> str:
        place = f", {self.place}" if self.place else ""
        error = f", relative error {self.error:.0e}"
        if self.unit == "nats":
            error = f", {self.error:.0e} nats apart"
        error = "" if np.isinf(self.error) else error
        return f"{self.tensor}{place}{error}"


def describe_index(shape: tuple[int, ...], index: tuple[int, ...]) -> str:
    """`row 0, head 2, position 17, element 3`."""
    names = AXES.get(len(shape), tuple(f"axis {n}" for n in range(len(shape))))
    return ", ".join(f"{name} {at}" for name, at in zip(names, index, strict=False))


def _make_difference(measurement: Measurement, compared: int, total: int) -> Difference:
    place = describe_index(measurement.shape, measurement.index)
    unit = measurement.bound.unit
    return Difference(measurement.tensor, place, measurement.error, compared, total, unit)


def list_computations(backends: Backends, case: Case) -> tuple[Computation, ...]:
    """The computations that the case has, in the order in which to compare them."""
    drops = case.dropout and backends.subject.trains and case.recipe.lora is None
    return (FORWARD, *((DROPOUT,) if drops else ()), *((DECODING,) if case.can_decode else ()))


def compare_forward(
    backends: Backends,
    case: Case,
    bound: Bound,
    precision: str = "float64",
    computation: Computation = FORWARD,
) -> Difference | None:
    """The first activation that differs; None if none does.

    The reference computes in float64 in any precision of the subject's. Raises Unsupported.
    """
    # A reference that does not train has no dropout; the oracle has the same masks.
    masked = computation == DROPOUT and not backends.reference.trains
    reference = backends.oracle if masked else backends.reference
    got = trace(backends.subject, case, precision, computation)
    expected = trace(reference, case, computation=computation)
    for count, (one, other) in enumerate(zip(got, expected, strict=False), 1):
        if one.name != other.name:
            what = f"{one.name} where {other.name} was due"
            return Difference(what, "", np.inf, count, len(got))
        measurement = compare_relative(one.name, one.value, other.value, bound)
        if measurement.ratio > 1:
            return _make_difference(measurement, count, len(got))
    if len(got) != len(expected):
        longer = max(got, expected, key=len)[min(len(got), len(expected))]
        return Difference(f"{longer.name} on one side only", "", np.inf, len(got), len(got))
    return None


def compare_backward(
    backends: Backends, case: Case, precision: str = "float64"
) -> Difference | None:
    """The loss, or the first gradient of the backward pass, that differs; None if none does.

    precision: the subject's, one of GRADIENTS. Gradients are compared element by element with a
    reference that trains, and with the oracle by derivatives along one direction for each tensor.
    Raises Unsupported.
    """
    _, got = backends.subject.compute_grads(case, precision)
    measurements = [_compare_loss(backends, case, precision)]
    compare = _compare_gradient if backends.both_train else _compare_derivative
    for name in order_backward(backends, case, got):
        if has_gradient(case, name):
            measurements.append(compare(backends, case, name, precision))
    for count, measurement in enumerate(measurements, 1):
        if measurement.ratio > 1:
            return _make_difference(measurement, count, len(measurements))
    return None


def explain_no_backward(backends: Backends, case: Case, precision: str) -> str:
    """Why the loss and gradients are not compared; '' if they are."""
    if not backends.subject.trains:
        return f"{backends.subject.name} has no gradients"
    if precision not in GRADIENTS:
        return f"the loss and gradients are not compared in {precision}"
    law_id = "L1/gradients" if backends.both_train else "L1/derivatives"
    law = next(law for law in list_laws() if law.id == law_id)
    if not law.applies_to(case):
        return f"the loss and gradients are not compared, as {law_id} has no such case"
    return ""


def describe_bounds(backends: Backends, case: Case, precision: str) -> str:
    """How close tensors must be to agree, and what is not compared."""
    text = f"within {_format_bound(tolerance.BISECT_BOUNDS[precision])}"
    if why := explain_no_backward(backends, case, precision):
        return f"{text}; {why}"
    loss, gradients = _format_bound(LOSSES[precision]), _format_bound(GRADIENTS[precision])
    return f"{text}, the loss within {loss}, gradients within {gradients}"


def _format_bound(bound: Bound) -> str:
    return f"{format_number(bound.limit)} {bound.unit}"


def order_backward(backends: Backends, case: Case, names: Iterable[str]) -> list[str]:
    """Names of tensors in the order of the backward pass: the reverse of the forward pass.

    A tensor's position is that of its module's output; in attention, which computes several
    results, that of its last inner result. The gradient of a tied embedding is complete only at the
    input end of the model.
    """
    positions: dict[str, int] = {}
    for position, activation in enumerate(trace(backends.subject, case)):
        if activation.what or activation.path not in positions:
            positions[activation.path] = position

    def find_position(name: str) -> int:
        path = name
        while path and path not in positions:
            path = path.rpartition(".")[0]
        return positions.get(path, -1)

    return sorted(names, key=find_position, reverse=True)


def _compare_loss(backends: Backends, case: Case, precision: str) -> Measurement:
    got, _ = backends.subject.compute_grads(case, precision)
    if backends.both_train:
        expected, _ = backends.reference.compute_grads(case)
    else:
        expected, _ = _compute_loss_and_slope(case, complex_step.draw_direction(case, 0))
    bound = LOSSES[precision]
    if bound.unit == "nats":
        return compare_absolute("loss", got, expected, bound.scale_to(expected))
    return compare_relative("loss", got, expected, bound, max(1.0, abs(expected)))


def _compare_gradient(backends: Backends, case: Case, name: str, precision: str) -> Measurement:
    """A gradient against the other backend's.

    In float32 its scale is that of L2: if few rows have a gradient, rounding is relative to their
    size. A gradient that vanishes is relative to all gradients.
    """
    _, got = backends.subject.compute_grads(case, precision)
    _, expected = backends.reference.compute_grads(case)
    scale = choose_scale(expected, name)
    if precision == "float32":
        scale = max(scale, float(np.abs(expected[name]).max()) / 10)
    scale = scale or rms(np.concatenate([value.ravel() for value in expected.values()]))
    what, bound = f"gradient of {name}", GRADIENTS[precision]
    return compare_relative(what, got[name], expected[name], bound, scale or None)


def _compare_derivative(backends: Backends, case: Case, name: str, precision: str) -> Measurement:
    """A gradient along one direction against the oracle's derivative."""
    _, grads = backends.subject.compute_grads(case, precision)
    direction = {name: complex_step.draw_direction(case, 0)[name]}
    _, slope = _compute_loss_and_slope(case, direction)
    size = max(complex_step.estimate_slope_size(grads, direction), abs(slope))
    got, scale = float((grads[name] * direction[name]).sum()), size or rms(grads[name]) or 1.0
    return compare_relative(f"gradient of {name}", got, slope, GRADIENTS[precision], scale)


def _compute_loss_and_slope(case: Case, direction: complex_step.Arrays) -> tuple[float, float]:
    return complex_step.compute_loss_and_slope(
        case.spec, case.params, direction, case.batch, case.dropout, case.recipe
    )

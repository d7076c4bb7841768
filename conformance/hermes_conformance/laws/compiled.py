"""L4 of compiled learners, which are what production trains with: float32 and bfloat16."""

import warnings
from collections.abc import Iterator

import numpy as np

from hermes_conformance.cases.case import Case
from hermes_conformance.laws.gradients import vanishing
from hermes_conformance.laws.training import SHORT, near
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measure, absolute, rms, same
from hermes_conformance.measure.law import Law, Sides
from hermes_conformance.measure.subject import BackendUnderTest
from hermes_conformance.measure.tolerance import EXACT
from hermes_conformance.oracle.trajectory import Trajectory, train


def compiled_run(side: BackendUnderTest, case: Case, precision: str) -> tuple[Trajectory, Measure]:
    """A short compiled run, and whether it was one: learners go on where a compiler fails."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        made = train(side, case, SHORT, precision, compile=True)
    failed = [str(one.message) for one in said if "compile failed" in str(one.message)]
    return made, same("failures to compile", failed, [], EXACT)


def float32(case: Case, sides: Sides) -> Iterator[Measure]:
    """A compiled learner trains as an eager one does, and is compiled."""
    got, whether = compiled_run(sides.subject, case, "float32")
    yield whether
    yield from near(case, got, train(sides.subject, case, SHORT, "float32"))


def bfloat16(case: Case, sides: Sides) -> Iterator[Measure]:
    """A compiled bfloat16 learner trains beside float64: it fuses, so it rounds elsewhere."""
    got, whether = compiled_run(sides.subject, case, "bfloat16")
    yield whether
    expected = train(sides.subject, case, SHORT)
    yield absolute("loss of each update", got.losses, expected.losses, tolerance.TRAIN_16)
    apart = got.norms / expected.norms
    yield absolute("gradient norm of each update", apart, apart * 0 + 1, tolerance.NORM_16)
    for name, value in expected.state.params.items():
        if vanishing(case, name) is None:
            changed = rms(value - np.asarray(case.params[name], np.float64))
            error = rms(np.asarray(got.state.params[name], np.float64) - value) / changed
            yield Measure(error, tolerance.CHANGE_16, f"change of {name}", value.shape)


LAWS = (
    Law(
        "L4",
        "compiled",
        "a compiled learner trains alike",
        tolerance.TRAIN_32,
        float32,
        lambda case: case.name.startswith(("compiled.dropout", "compiled.pairs", "train.long")),
        "learner",
        "float32",
        long=True,
    ),
    Law(
        "L4",
        "compiled-bfloat16",
        "a compiled bfloat16 learner trains beside float64",
        tolerance.TRAIN_16,
        bfloat16,
        lambda case: case.name.startswith("compiled."),
        "learner",
        "bfloat16",
    ),
)

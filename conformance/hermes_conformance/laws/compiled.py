"""L4 of compiled learners, which production uses, in float32 and bfloat16."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from hermes_conformance.cases.case import Case
from hermes_conformance.laws.gradients import has_gradient
from hermes_conformance.laws.training import compare_float32_runs
from hermes_conformance.laws.training_cases import SHORT_STEPS
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measurement, compare_absolute, compare_values, rms
from hermes_conformance.measure.law import Law, match_names
from hermes_conformance.measure.subject import Backends, BackendUnderTest
from hermes_conformance.measure.tolerance import EXACT
from hermes_conformance.oracle.trajectory import Trajectory, train


@contextmanager
def catch_compiler_failures() -> Iterator[list[str]]:
    """A context whose list holds, at its end, what learners said whose compiler failed.

    Such a learner only warns, and trains uncompiled.
    """
    failures: list[str] = []
    with warnings.catch_warnings(record=True) as messages:
        warnings.simplefilter("always")
        yield failures
    texts = [str(message.message) for message in messages]
    failures += [text for text in texts if "compile failed" in text]


def train_compiled(
    subject: BackendUnderTest, case: Case, precision: str
) -> tuple[Trajectory, Measurement]:
    """A short compiled run, and a measurement of failures to compile."""
    with catch_compiler_failures() as failures:
        run = train(subject, case, SHORT_STEPS, precision, compile=True)
    return run, compare_values("failures to compile", failures, [], EXACT)


def float32(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A float32 learner does compile, and then trains as an eager one does."""
    got, failures = train_compiled(backends.subject, case, "float32")
    yield failures
    expected = train(backends.subject, case, SHORT_STEPS, "float32")
    yield from compare_float32_runs(case, got, expected)


def bfloat16(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A bfloat16 learner does compile, and then trains nearly as in float64.

    It is not compared with an eager bfloat16 learner: fused kernels round in other places.
    """
    got, failures = train_compiled(backends.subject, case, "bfloat16")
    yield failures
    expected = train(backends.subject, case, SHORT_STEPS)
    yield compare_absolute("loss of each step", got.losses, expected.losses, tolerance.TRAIN_16)
    ratios = got.norms / expected.norms
    ones = np.ones_like(ratios)
    yield compare_absolute("gradient norm of each step", ratios, ones, tolerance.NORM_16)
    for name, value in expected.state.params.items():
        if has_gradient(case, name):
            change = rms(np.subtract(value, case.params[name], dtype=np.float64))
            apart = np.subtract(got.state.params[name], value, dtype=np.float64)
            error = rms(apart) / change
            yield Measurement(error, tolerance.CHANGE_16, f"change of {name}", value.shape)


LAWS = (
    Law(
        "L4",
        "compiled",
        "a compiled learner trains as an eager one",
        tolerance.TRAIN_32,
        float32,
        match_names("compiled.dropout", "compiled.pairs", "train.long"),
        "learner",
        "float32",
        long=True,
    ),
    Law(
        "L4",
        "compiled-bfloat16",
        "a compiled bfloat16 learner trains nearly as in float64",
        tolerance.TRAIN_16,
        bfloat16,
        match_names("compiled."),
        "learner",
        "bfloat16",
    ),
)

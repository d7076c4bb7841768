"""A step whose loss is above the batch's limit changes nothing, and one below it is as ever."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from hermes.interface import Learner, StepReport, TrainState
from hermes_conformance.cases.case import Case
from hermes_conformance.laws.training_cases import NEW_RULES
from hermes_conformance.measure.compare import Measurement, compare_bits, compare_values
from hermes_conformance.measure.law import Law, match_names
from hermes_conformance.measure.subject import Backends
from hermes_conformance.measure.tolerance import EXACT
from hermes_conformance.oracle.trajectory import copy_state
from hermes_numpy.optim import is_applied

LR = 1e-3


def _take_step(learner: Learner, case: Case, limit: float | None) -> tuple[StepReport, TrainState]:
    report = learner.step(replace(case.batch, loss_limit=limit), LR)
    return report, copy_state(learner.state())


def _limit_loss(case: Case, backends: Backends, precision: str) -> Iterator[Measurement]:
    make = backends.subject.make_learner
    start = copy_state(make(case, precision).state())
    free, after = _take_step(make(case, precision), case, None)
    yield compare_values("a step without a limit says nothing", free.applied, None, EXACT)
    loss, norm = float(free.loss), float(free.grad_norm)
    below = float(np.nextafter(np.float32(loss), np.float32(-math.inf)))
    for limit in (below, loss, math.inf):
        expected = is_applied(loss, norm, limit)
        report, state = _take_step(make(case, precision), case, limit)
        what = f"with the limit {limit - loss:+g}"
        yield compare_values(f"{what}: the step says", report.applied is None, False, EXACT)
        if report.applied is None:
            return
        applied = float(report.applied)
        yield compare_values(f"{what}: applied", applied, float(expected), EXACT)
        yield compare_bits(f"{what}: loss", float(report.loss), loss, EXACT)
        yield compare_bits(f"{what}: norm", float(report.grad_norm), norm, EXACT)
        yield compare_values(f"{what}: loss scale", state.loss_scale, after.loss_scale, EXACT)
        right = after if expected else start
        yield from _compare_bits(what, state, right)


def _compare_bits(what: str, got: TrainState, expected: TrainState) -> Iterator[Measurement]:
    for name, value in expected.params.items():
        yield compare_bits(f"{what}: {name}", got.params[name], value, EXACT)
    for slot, held in expected.slots.items():
        for name, value in held.items():
            yield compare_bits(f"{what}: {slot} of {name}", got.slots[slot][name], value, EXACT)


def limit_loss(case: Case, backends: Backends) -> Iterator[Measurement]:
    """In float32, by every optimizer, with limits next to the loss on both sides of it."""
    yield from _limit_loss(case, backends, "float32")


def limit_float16_loss(case: Case, backends: Backends) -> Iterator[Measurement]:
    """In float16, whose loss scale moves on as after any other step."""
    yield from _limit_loss(case, backends, "float16")


LAWS = (
    Law(
        "L4",
        "loss-limit",
        "a step whose loss is above its limit changes nothing",
        EXACT,
        limit_loss,
        match_names("train.hot", "train.preference", *NEW_RULES),
        "learner",
        "float32",
    ),
    Law(
        "L4",
        "loss-limit-float16",
        "a loss above its limit is no overflow of float16",
        EXACT,
        limit_float16_loss,
        match_names("train.dropout"),
        "learner",
        "float16",
    ),
)

"""L4 of the numbers that a step reports: they are that step's, whenever they are read.

A device that computes behind its host has the next step queued when the numbers of one are read.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from hermes.interface import Batch, Learner, StepReport
from hermes.recipe import LossScaling
from hermes.training.schedule import compute_lr
from hermes_conformance.cases.case import Case
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import (
    Measurement,
    compare_bits,
    compare_relative,
    compare_values,
)
from hermes_conformance.measure.law import Law, match_names
from hermes_conformance.measure.subject import Backends
from hermes_conformance.measure.tolerance import EXACT

STEPS = 4
NUMBERS = ("loss", "grad_norm", "row_logprobs", "loss_scale", "first_norm", "applied")
# After every step, so that no two steps have the same.
RESTLESS = LossScaling(initial=1024.0, interval=1)

Numbers = dict[str, np.ndarray | None]


def _make_batches(case: Case) -> list[Batch]:
    """A batch a step, of all that reports something; the odd ones are not applied, by a limit."""
    batches = []
    for step in range(STEPS):
        batch = case.make_batch(step)
        sources = (batch.rows % 2).astype(np.int32) if batch.pairs is None else None
        limit = 0.0 if step % 2 else math.inf
        batches.append(replace(batch, sources=sources, measures_noise=True, loss_limit=limit))
    return batches


def _take_step(case: Case, learner: Learner, batch: Batch, step: int) -> StepReport:
    return learner.step(batch, compute_lr(case.recipe, step, STEPS))


def _read(report: StepReport, order: Sequence[str] = NUMBERS) -> Numbers:
    """A report's numbers, read in this order."""
    found: Numbers = {}
    for name in order:
        number = getattr(report, name)
        if name == "row_logprobs" and number is not None:
            found[name] = np.array(number, np.float64)
        else:
            found[name] = None if number is None else np.array(float(number))
    return found


def _late_numbers(case: Case, backends: Backends, precision: str) -> Iterator[Measurement]:
    recipe = replace(case.recipe, loss_scaling=RESTLESS)
    batches = _make_batches(case)

    def make() -> Learner:
        return backends.subject.make_learner(case, precision, recipe)

    at_once, learner = [], make()
    for step, batch in enumerate(batches):
        at = f"step {step + 1}, read at once"
        loss, grads = learner.grads(batch)
        scale = learner.state().loss_scale
        report = _take_step(case, learner, batch, step)
        numbers = _read(report)
        at_once.append(numbers)
        yield compare_values(f"{at}: its number", report.step, step + 1, EXACT)
        norm = math.sqrt(sum(float(np.square(g, dtype=np.float64).sum()) for g in grads.values()))
        bound = tolerance.NORM_32 if precision == "float32" else tolerance.NORM_F16
        yield _compare(f"{at}: loss", numbers["loss"], loss, tolerance.LOSS_32)
        yield _compare(f"{at}: norm", numbers["grad_norm"], norm, bound)
        expected = None if scale is None else scale.scale
        yield _compare(f"{at}: loss scale", numbers["loss_scale"], expected, EXACT)
        yield _compare(f"{at}: applied", numbers["applied"], float(step % 2 == 0), EXACT)
        if batch.sources is not None:
            rows = numbers["row_logprobs"]
            own = None if rows is None else -rows.sum() / batch.counts.divisor
            yield _compare(f"{at}: loss of its rows", own, loss, tolerance.LOSS_32)

    learner, behind, waiting = make(), [], None
    for step, batch in enumerate(batches):
        report = _take_step(case, learner, batch, step)
        if waiting is not None:
            behind.append(_read(waiting))
        waiting = report
    assert waiting is not None, "there are steps"
    behind.append(_read(waiting))
    learner = make()
    reports = [_take_step(case, learner, batch, step) for step, batch in enumerate(batches)]
    backwards = [_read(report, NUMBERS[::-1]) for report in reports[::-1]][::-1]
    is_exact = backends.subject.is_deterministic
    for what, found in (("a step late", behind), ("from the last one back", backwards)):
        for step, (got, right) in enumerate(zip(found, at_once, strict=True)):
            for name in NUMBERS:
                where = f"{name} of step {step + 1}, read {what}"
                one, other = got[name], right[name]
                if is_exact and one is not None and other is not None:
                    yield compare_bits(where, one, other, EXACT)
                else:
                    yield _compare(where, one, other, tolerance.LOSS_32)


def _compare(
    what: str, got: ArrayLike | None, expected: ArrayLike | None, bound: tolerance.Bound
) -> Measurement:
    if got is None or expected is None:
        return compare_values(f"{what}: is told", got is not None, expected is not None, EXACT)
    return compare_relative(what, got, expected, bound)


def late_numbers(case: Case, backends: Backends) -> Iterator[Measurement]:
    """In float32, of text and of pairs."""
    yield from _late_numbers(case, backends, "float32")


def late_float16_numbers(case: Case, backends: Backends) -> Iterator[Measurement]:
    """In float16, whose loss scale moves on with every step."""
    yield from _late_numbers(case, backends, "float16")


LAWS = (
    Law(
        "L4",
        "late-numbers",
        "the numbers of a step are that step's, whenever they are read",
        EXACT,
        late_numbers,
        match_names("train.hot", "train.preference", "train.dropout"),
        "learner",
        "float32",
    ),
    Law(
        "L4",
        "late-numbers-float16",
        "the loss scale of a step is that step's, whenever it is read",
        EXACT,
        late_float16_numbers,
        match_names("train.dropout"),
        "learner",
        "float16",
    ),
)

"""A step on a mixture of sources reports what each row's loss is, from its own forward pass."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from hermes.interface import IGNORE, Batch, Learner, Model
from hermes_conformance.cases.case import Case
from hermes_conformance.laws.gradients import compare_gradient, has_gradient
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import (
    Measurement,
    compare_absolute,
    compare_relative,
    compare_values,
)
from hermes_conformance.measure.law import Law, match_names
from hermes_conformance.measure.subject import Backends
from hermes_conformance.measure.tolerance import Bound
from hermes_conformance.oracle.rounding_noise import log_softmax

LR = 1e-3


def add_sources(batch: Batch) -> Batch:
    """The batch with its rows from two sources in turn."""
    return replace(batch, sources=(batch.rows % 2).astype(np.int32))


def sum_rows(model: Model, batch: Batch) -> tuple[np.ndarray, float]:
    """Each row's summed log-probability of its targets by the model's own logits, (A, B).

    And the sum over targets of the square of log(sum(exp(z))), z the logits.
    """
    rows, squares = [], 0.0
    for a, targets in enumerate(batch.targets):
        segments = None if batch.segments is None else batch.segments[a]
        logits = np.asarray(model.logits(batch.tokens[a], segments), np.float64)
        scores = log_softmax(logits)
        lse = (logits - scores)[..., 0]
        squares += float(np.square(lse)[targets != IGNORE].sum())
        at = np.where(targets == IGNORE, 0, targets)[..., None]
        chosen = np.take_along_axis(scores, at, axis=-1)[..., 0]
        rows.append(np.where(targets == IGNORE, 0.0, chosen).sum(-1))
    return np.stack(rows), squares


def _compare_step(
    case: Case, learner: Learner, model: Model, bound: Bound, loss_bound: Bound
) -> Iterator[Measurement]:
    """A step's rows, which have no z-loss, and its loss, which has; by the model's logits."""
    batch = add_sources(case.batch)
    expected, squares = sum_rows(model, batch)
    report = learner.step(batch, LR)
    got = report.row_logprobs
    yield compare_values("rows are reported", got is not None, True, tolerance.EXACT)
    if got is None:
        return
    size = np.maximum(1.0, np.abs(expected))
    yield compare_absolute("rows", np.asarray(got) / size, expected / size, bound)
    z_loss = case.recipe.z_loss * squares
    loss = (z_loss - np.asarray(got, np.float64).sum()) / batch.counts.terms
    scale = max(1.0, abs(loss))
    yield compare_relative("loss", float(report.loss), loss, loss_bound, scale)


def rows(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Rows are those of the reference's logits; asking for them changes no gradient."""
    learner = backends.subject.make_learner(case)
    _, asked = learner.grads(add_sources(case.batch))
    _, plain = backends.subject.compute_grads(case)
    for name, value in plain.items():
        if has_gradient(case, name):
            yield compare_gradient(f"gradient of {name}", asked[name], value)
    bounds = tolerance.LOGITS_64, tolerance.LOGITS_64
    yield from _compare_step(case, learner, backends.reference.build_model(case), *bounds)


def fast_rows(case: Case, backends: Backends) -> Iterator[Measurement]:
    """In float32 rows are those of the learner's own logits, and their sum is the step's loss."""
    learner = backends.subject.make_learner(case, "float32")
    yield from _compare_step(case, learner, learner, tolerance.LOGPROB_32, tolerance.LOSS_32)


LAWS_64 = (
    Law(
        "L1",
        "row-losses",
        "a step on several sources reports each row",
        tolerance.LOGITS_64,
        rows,
        match_names(
            *("default/", "attention.mask=", "embeddings.tie", "output.", "edge.no target"),
            "z_loss.targets",
        ),
        "learner",
    ),
)
LAWS_32 = (
    Law(
        "L2",
        "row-losses",
        "a step on several sources reports each row",
        tolerance.LOGPROB_32,
        fast_rows,
        match_names(
            *("default/", "attention.mask=", "embeddings.tie", "output.", "slices.next"),
            "z_loss.targets",
        ),
        "learner",
        "float32",
    ),
)

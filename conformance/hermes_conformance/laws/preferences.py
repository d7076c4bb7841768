"""L1 of preferences: log-probabilities of rows, and a policy that is its own reference."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from hermes.interface import Batch, Model
from hermes_conformance.cases.case import Case
from hermes_conformance.laws.gradients import compare_slope
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measurement, compare_absolute, compare_relative
from hermes_conformance.measure.subject import Backends
from hermes_conformance.oracle import complex_step


def row_logprobs(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Summed log-probabilities of rows, from which preferences are computed, agree."""
    tokens, targets = case.tokens, case.batch.targets[0]
    subject, reference = (b.build_model(case) for b in (backends.subject, backends.reference))
    got, expected = (model.row_logprobs(tokens, targets) for model in (subject, reference))
    yield compare_relative("row_logprobs", got, expected, tolerance.LOGITS_64)
    if case.batch.pairs is not None:
        loss, rows = subject.preferences(case.batch)
        expected_loss, expected_rows = reference.preferences(case.batch)
        yield compare_relative("loss of pairs", loss, expected_loss, tolerance.LOGITS_64)
        yield compare_relative("rows of pairs", rows, expected_rows, tolerance.LOGITS_64)


def own_reference(case: Case, backends: Backends) -> Iterator[Measurement]:
    """With the policy itself as the reference, as in the first step of a run, h is 0."""
    model, oracle = backends.subject.build_model(case), backends.oracle.build_model(case)
    loss, got = backends.subject.make_learner(case).grads(_set_own_reference(model, case.batch))
    direction = complex_step.draw_direction(case, 0)
    expected, slope = complex_step.compute_loss_and_slope(
        case.spec, case.params, direction, _set_own_reference(oracle, case.batch)
    )
    yield compare_absolute("loss", loss, expected, tolerance.LOSS_64.scale_to(expected))
    grads = {name: np.asarray(got[name]) for name in got}
    yield compare_slope("all gradients", grads, direction, slope)


def _set_own_reference(model: Model, batch: Batch) -> Batch:
    """The batch with the model's own log-probabilities as its reference."""
    assert batch.pairs is not None, "only preferences have a reference"
    reference = [
        model.row_logprobs(tokens, targets)
        for tokens, targets in zip(batch.tokens, batch.targets, strict=True)
    ]
    return replace(batch, pairs=replace(batch.pairs, reference=np.stack(reference)))

"""L1 of preferences: rows' log-probabilities, and a policy that is its own reference."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from hermes.interface import Batch, Model
from hermes_conformance.cases.case import Case
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measure, absolute, relative
from hermes_conformance.measure.law import Sides
from hermes_conformance.oracle import complex_step


def rows(case: Case, sides: Sides) -> Iterator[Measure]:
    """A row's summed log-probability, which is what preferences are made of."""
    tokens, targets = case.tokens, case.batch.targets[0]
    got = sides.subject.model(case).row_logprobs(tokens, targets)
    expected = sides.reference.model(case).row_logprobs(tokens, targets)
    yield relative("row_logprobs", got, expected, tolerance.LOGITS_64)
    if case.batch.pairs is not None:
        for name, one, other in zip(
            ("loss of pairs", "rows of pairs"),
            sides.subject.model(case).preferences(case.batch),
            sides.reference.model(case).preferences(case.batch),
            strict=True,
        ):
            yield relative(name, one, other, tolerance.LOGITS_64)


def own_reference(case: Case, sides: Sides) -> Iterator[Measure]:
    """The first update of a run of preferences: the reference is the policy itself, so h is 0."""
    loss, got = sides.subject.learner(case).grads(_own(sides.subject.model(case), case.batch))
    toward = complex_step.direction(case, 0)
    expected, slope = complex_step.loss_and_slope(
        case.spec, case.params, toward, _own(sides.oracle.model(case), case.batch)
    )
    yield absolute("loss", loss, expected, tolerance.LOSS_64.scaled(expected))
    found = sum(float((got[name] * toward[name]).sum()) for name in toward)
    size = max(complex_step.natural_size(got, toward), abs(slope))
    yield relative("all gradients", found, slope, tolerance.DERIVATIVE_64, scale=size or 1.0)


def _own(model: Model, batch: Batch) -> Batch:
    """The batch with what the model itself says as its reference."""
    assert batch.pairs is not None, "only preferences have a reference"
    rows = [model.row_logprobs(*of) for of in zip(batch.tokens, batch.targets, strict=True)]
    return replace(batch, pairs=replace(batch.pairs, reference=np.stack(rows)))

"""L1 of gradients: against another backend's, the oracle's derivatives, and themselves."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from hermes.interface import Batch
from hermes_conformance.cases.case import Case
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measure, absolute, relative, rms
from hermes_conformance.measure.law import Sides
from hermes_conformance.oracle import complex_step


def vanishing(case: Case, name: str) -> str | None:
    """Why a tensor's gradient is mathematically zero, so that all one could compare is rounding."""
    parts = name.split(".")
    if parts[-2:] == ["k_proj", "bias"]:
        block = case.spec.layers[int(parts[2])]
        a = block.attention
        if not a.rotary_size and a.qk_norm == "none" and a.softcap is None:
            return "without rope a key bias adds the same to every score of a query"
    return None


def size_of(grads: complex_step.Weights, name: str) -> float:
    """What a gradient's rounding is measured beside: its own rms.

    A key bias's is a sum over keys that cancels where they are alike, so its terms are as large as
    those of the query's bias, and so is their rounding.
    """
    query = name.replace("k_proj.bias", "q_proj.bias")
    return max(rms(np.asarray(grads[name])), rms(np.asarray(grads.get(query, grads[name]))))


def gradients(case: Case, sides: Sides) -> Iterator[Measure]:
    """Every tensor's gradient, against another backend's."""
    _, got = sides.subject.grads(case)
    _, expected = sides.reference.grads(case)
    for name in expected:
        if vanishing(case, name) is None:
            size = size_of(expected, name)
            what = f"gradient of {name}"
            yield relative(what, got[name], expected[name], tolerance.GRADIENT_64, scale=size)


def derivatives(case: Case, sides: Sides) -> Iterator[Measure]:
    """<gradient, v> against the oracle's derivative along v; tensor by tensor if they part."""
    loss, got = sides.subject.grads(case)
    toward = complex_step.direction(case, 0)
    expected, whole = _derivative("all gradients", case, got, toward)
    yield absolute("training loss", loss, expected, tolerance.LOSS_64.scaled(expected))
    yield whole
    if whole.ratio > 1:
        for name in toward:
            yield _derivative(f"gradient of {name}", case, got, {name: toward[name]})[1]


def _derivative(what, case, grads, toward):
    loss, expected = complex_step.loss_and_slope(
        case.spec, case.params, toward, case.batch, case.dropout, case.recipe
    )
    got = sum(float((grads[name] * toward[name]).sum()) for name in toward)
    size = max(complex_step.natural_size(grads, toward), abs(expected))
    return loss, relative(what, got, expected, tolerance.DERIVATIVE_64, scale=size or 1.0)


def splits(case: Case, sides: Sides) -> Iterator[Measure]:
    """The same samples as one micro-batch or as several: same loss, same gradients."""
    loss_a, grads_a = sides.subject.grads(case)
    loss_b, grads_b = sides.subject.learner(case).grads(joined(case.batch))
    yield absolute("loss", loss_a, loss_b, tolerance.LOSS_64.scaled(loss_b))
    for name, value in grads_a.items():
        if vanishing(case, name) is None:
            other, size = np.asarray(grads_b[name]), size_of(grads_b, name)
            yield relative(f"gradient of {name}", value, other, tolerance.GRADIENT_64, scale=size)


def shares(case: Case, sides: Sides) -> Iterator[Measure]:
    """An update cut in two as processes cut it: losses and gradients of the shares add up to it."""
    loss, whole = sides.subject.grads(case)
    parts = [sides.subject.learner(case).grads(share) for share in _shares(case.batch)]
    got = sum(part for part, _ in parts)
    yield absolute("sum of the losses", got, loss, tolerance.LOSS_64.scaled(loss))
    for name, value in whole.items():
        if vanishing(case, name) is None:
            total = sum(np.asarray(grads[name]) for _, grads in parts)
            what = f"sum of the gradients of {name}"
            yield relative(what, total, value, tolerance.GRADIENT_64, scale=size_of(whole, name))


def _shares(batch: Batch) -> Iterator[Batch]:
    """Each micro-batch as a process's share of the update."""
    for a in range(len(batch.tokens)):
        at = slice(a, a + 1)
        segments = None if batch.segments is None else batch.segments[at]
        pairs = batch.pairs and replace(batch.pairs, reference=batch.pairs.reference[at])
        rows = batch.rows[at]
        yield Batch(batch.tokens[at], batch.targets[at], rows, segments, pairs, batch.counts)


def joined(batch: Batch) -> Batch:
    """The update as one micro-batch; of pairs, all chosen rows before all rejected ones."""
    halves = 1 if batch.pairs is None else 2

    def flat(x):
        if x is None:
            return None
        A, B = x.shape[:2]
        split = x.reshape(A, halves, B // halves, *x.shape[2:])
        return split.swapaxes(0, 1).reshape(1, A * B, *x.shape[2:])

    pairs = batch.pairs and replace(batch.pairs, reference=flat(batch.pairs.reference))
    return Batch(
        flat(batch.tokens), flat(batch.targets), flat(batch.rows), flat(batch.segments), pairs
    )


def frozen(case: Case, sides: Sides) -> Iterator[Measure]:
    """With freeze_layers, the same gradients of the tensors that are left, and no others."""
    recipe = replace(case.recipe, freeze_layers=1)
    _, every = sides.subject.grads(case)
    _, some = sides.subject.learner(case, recipe=recipe).grads(case.batch)
    frozen_names = {n for n in every if n.startswith(("model.embed_", "model.layers.0."))}
    extra = len(set(some) ^ (set(every) - frozen_names))
    yield Measure(float(extra), tolerance.EXACT, "tensors with a gradient")
    for name in some:
        if vanishing(case, name) is None:
            yield relative(f"gradient of {name}", some[name], every[name], tolerance.GRADIENT_64)

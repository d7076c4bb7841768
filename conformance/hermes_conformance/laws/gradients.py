"""L1 of gradients: against another backend, the oracle's derivatives, and their own parts."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from hermes.interface import Batch, Tensors
from hermes.spec.attention import QkNorm
from hermes_conformance.cases.case import Case, Weights
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measurement, compare_absolute, compare_relative, rms
from hermes_conformance.measure.subject import Backends
from hermes_conformance.oracle import complex_step


def has_gradient(case: Case, name: str) -> bool:
    """Whether a tensor's gradient is not mathematically zero; if it is, all of it is rounding.

    A key bias that no rope follows adds the same to all scores of a query, which softmax cancels
    unless a sink, whose score is its own, is among them.
    """
    parts = name.split(".")
    if parts[-2:] not in (["k_proj", "bias"], ["k_norm", "bias"]):
        return True
    attention = case.spec.layers[int(parts[2])].attention
    assert attention is not None, "the layer has a key projection"
    if parts[-2] == "k_norm":
        norm = attention.qk_norm
        is_last = isinstance(norm, QkNorm) and norm.after_rope
        is_rotated = attention.rotary_size and not is_last
        return bool(is_rotated or attention.softcap is not None or attention.sinks)
    return bool(
        attention.rotary_size
        or attention.qk_norm != "none"
        or attention.softcap is not None
        or attention.clip_qkv is not None
        or attention.sinks
    )


def choose_scale(grads: Tensors, name: str) -> float:
    """The size that a gradient's error is measured relative to: its rms.

    A key bias's gradient is a sum over keys that nearly cancels where the keys are alike. Its terms
    are as large as those of the query bias's gradient, and so is their rounding.
    """
    query = name.replace("k_proj.bias", "q_proj.bias")
    return max(rms(np.asarray(grads[name])), rms(np.asarray(grads.get(query, grads[name]))))


def compare_gradient(
    what: str, got: ArrayLike, expected: ArrayLike, scale: float | None = None
) -> Measurement:
    """A gradient in float64 against another, relative to `scale`."""
    return compare_relative(what, got, expected, tolerance.GRADIENT_64, scale=scale)


def gradients(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Gradients of all tensors agree with another backend's."""
    _, got = backends.subject.compute_grads(case)
    _, expected = backends.reference.compute_grads(case)
    for name in expected:
        if has_gradient(case, name):
            scale = choose_scale(expected, name)
            yield compare_gradient(f"gradient of {name}", got[name], expected[name], scale)


def derivatives(case: Case, backends: Backends) -> Iterator[Measurement]:
    """<gradient, v> is the oracle's derivative along v; tensor by tensor where it is not."""
    loss, got = backends.subject.compute_grads(case)
    direction = complex_step.draw_direction(case, 0)
    expected, whole = _compare_derivative("all gradients", case, got, direction)
    yield compare_absolute("training loss", loss, expected, tolerance.LOSS_64.scale_to(expected))
    yield whole
    if whole.ratio > 1:
        for name, part in direction.items():
            yield _compare_derivative(f"gradient of {name}", case, got, {name: part})[1]


def _compare_derivative(
    what: str, case: Case, grads: Weights, direction: complex_step.Arrays
) -> tuple[float, Measurement]:
    """The oracle's loss, and the gradients along a direction against the oracle's derivative."""
    loss, expected = complex_step.compute_loss_and_slope(
        case.spec, case.params, direction, case.batch, case.dropout, case.recipe
    )
    return loss, compare_slope(what, grads, direction, expected)


def compare_slope(
    what: str, grads: Weights, direction: complex_step.Arrays, expected: float
) -> Measurement:
    """<grads, direction> against the exact slope."""
    got = sum(float((grads[name] * direction[name]).sum()) for name in direction)
    size = max(complex_step.estimate_slope_size(grads, direction), abs(expected))
    return compare_relative(what, got, expected, tolerance.DERIVATIVE_64, scale=size or 1.0)


def micro_batches(case: Case, backends: Backends) -> Iterator[Measurement]:
    """The same samples in one micro-batch or in several have the same loss and gradients."""
    loss_a, grads_a = backends.subject.compute_grads(case)
    loss_b, grads_b = backends.subject.make_learner(case).grads(join_batch(case.batch))
    yield compare_absolute("loss", loss_a, loss_b, tolerance.LOSS_64.scale_to(loss_b))
    for name, value in grads_a.items():
        if has_gradient(case, name):
            scale = choose_scale(grads_b, name)
            yield compare_gradient(f"gradient of {name}", value, grads_b[name], scale)


def shares(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Losses and gradients of the shares that ranks have of a step add up to the whole step's."""
    loss, whole = backends.subject.compute_grads(case)
    parts = [backends.subject.make_learner(case).grads(share) for share in split_batch(case.batch)]
    total_loss = sum(part for part, _ in parts)
    yield compare_absolute("sum of the losses", total_loss, loss, tolerance.LOSS_64.scale_to(loss))
    for name, value in whole.items():
        if has_gradient(case, name):
            total = sum(np.asarray(grads[name]) for _, grads in parts)
            what = f"sum of the gradients of {name}"
            yield compare_gradient(what, total, value, choose_scale(whole, name))


def split_batch(batch: Batch) -> Iterator[Batch]:
    """Each micro-batch as the share that one rank has of the step."""
    for a in range(len(batch.tokens)):
        at = slice(a, a + 1)
        segments = None if batch.segments is None else batch.segments[at]
        pairs = batch.pairs and replace(batch.pairs, reference=batch.pairs.reference[at])
        rows = batch.rows[at]
        weights = None if batch.weights is None else batch.weights[at]
        yield Batch(
            batch.tokens[at], batch.targets[at], rows, segments, pairs, batch.counts, weights
        )


def join_batch(batch: Batch) -> Batch:
    """The batch as one micro-batch; of pairs, all chosen rows come before all rejected ones."""
    halves = 1 if batch.pairs is None else 2

    def join(x: np.ndarray) -> np.ndarray:
        A, B = x.shape[:2]
        split = x.reshape(A, halves, B // halves, *x.shape[2:])
        return split.swapaxes(0, 1).reshape(1, A * B, *x.shape[2:])

    segments = None if batch.segments is None else join(batch.segments)
    weights = None if batch.weights is None else join(batch.weights)
    pairs = batch.pairs and replace(batch.pairs, reference=join(batch.pairs.reference))
    targets, rows = join(batch.targets), join(batch.rows)
    return Batch(join(batch.tokens), targets, rows, segments, pairs, weights=weights)


def freezing(case: Case, backends: Backends) -> Iterator[Measurement]:
    """freeze_layers leaves out the gradients of frozen tensors and does not change the others."""
    recipe = replace(case.recipe, freeze_layers=1)
    _, every = backends.subject.compute_grads(case)
    _, some = backends.subject.make_learner(case, recipe=recipe).grads(case.batch)
    frozen = {name for name in every if name.startswith(("model.embed_", "model.layers.0."))}
    extra = len(set(some) ^ (set(every) - frozen))
    yield Measurement(float(extra), tolerance.EXACT, "tensors with a gradient")
    for name in some:
        if has_gradient(case, name):
            yield compare_gradient(f"gradient of {name}", some[name], every[name])

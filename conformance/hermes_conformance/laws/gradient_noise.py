"""The noise of gradients that a run measures is that of the definition."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from hermes.interface import IGNORE, Batch
from hermes.numerics.gradient_noise import RankShare, measure_share
from hermes.recipe import LossScaling
from hermes_conformance.cases.case import Case
from hermes_conformance.laws.gradients import split_batch
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measurement, compare_relative, compare_values
from hermes_conformance.measure.law import Law, match_names
from hermes_conformance.measure.subject import Backends
from hermes_conformance.measure.tolerance import EXACT, Bound
from hermes_numpy.gradient_noise import estimate_gradient_noise

LR = 1e-3
CASES = (
    *("default/", "attention.mask=", "embeddings.tie", "edge.one row", "lora.every", "weighted."),
    *("preference.sigmoid/", "preference.weighted", "z_loss.targets"),
)


def _flatten(grads: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(grads[name], np.float64)) for name in grads])


def _list_weights(batch: Batch) -> np.ndarray:
    """The weights of the terms of the loss, one after another."""
    counted = batch.targets != IGNORE
    if batch.pairs is not None:
        P = batch.targets.shape[1] // 2
        counted = counted.any(axis=-1)[:, :P]
        weights = None if batch.weights is None else batch.weights[:, :P]
    else:
        weights = batch.weights
    return np.ones(int(counted.sum())) if weights is None else weights[counted].astype(np.float64)


def _measure(
    case: Case, backends: Backends, precision: str, bound: Bound, norm_bound: Bound
) -> Iterator[Measurement]:
    """A step's two norms and what hermes makes of them, by gradients in float64."""
    # Hot weights without a last norm have gradients that overflow at the usual scale.
    recipe = replace(case.recipe, loss_scaling=LossScaling(initial=1024.0))
    batch = replace(case.batch, measures_noise=True)
    first = next(iter(split_batch(case.batch)))
    exact = backends.subject.make_learner(case)
    small, big = (_flatten(dict(exact.grads(part)[1])) for part in (first, case.batch))
    report = backends.subject.make_learner(case, precision, recipe).step(batch, LR)
    is_reported = report.first_norm is not None  # of a step with more than its first micro-batch
    yield compare_values("the norm is reported", is_reported, len(batch.tokens) > 1, EXACT)
    if report.first_norm is None:
        return
    first_norm = float(report.first_norm)
    yield compare_relative(
        "norm of the first micro-batch", first_norm, float(np.linalg.norm(small)), norm_bound
    )
    small_weights, big_weights = _list_weights(first), _list_weights(case.batch)
    mean = small * case.batch.counts.divisor / small_weights.sum()
    expected = estimate_gradient_noise(mean, big, small_weights, big_weights)
    share = measure_share(batch, first_norm)
    got = share.estimate(float(report.grad_norm), batch.counts.divisor)
    yield compare_values("there is an estimate", got is not None, True, EXACT)
    if got is None:
        return
    # Differences of squares: as exact as the squares are, times how far they are apart.
    inverse = (np.square(w).sum() / w.sum() ** 2 for w in (small_weights, big_weights))
    a, b = inverse
    size = (mean @ mean + big @ big) / (a - b)
    yield compare_relative("|G|^2", got[0], expected[0], bound, scale=float(size) * a)
    yield compare_relative("tr(Sigma)", got[1], expected[1], bound, scale=float(size))


def measure_noise(case: Case, backends: Backends) -> Iterator[Measurement]:
    """In float64, of one rank."""
    yield from _measure(case, backends, "float64", tolerance.GRADIENT_64, tolerance.GRADIENT_64)


def add_rank_noise(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Shares of two ranks with a micro-batch of their own each, by the definition of A.1.

    Of r small batches their squared norms and inverse sizes are averaged.
    """
    parts = [replace(part, measures_noise=True) for part in split_batch(case.batch)]
    learner = backends.subject.make_learner(case)
    _, whole = learner.grads(case.batch)
    big, sizes, squares, shares = _flatten(dict(whole)), [], [], []
    for part in parts:
        _, grads = learner.grads(part)
        flat, weights = _flatten(dict(grads)), _list_weights(part)
        mean = flat * case.batch.counts.divisor / weights.sum()
        squares.append(float(mean @ mean))
        sizes.append(float(weights.sum() ** 2 / np.square(weights).sum()))
        shares.append(measure_share(part, float(np.linalg.norm(flat))))
    sums = zip(*((s.small, s.small_inverse, s.count, s.squares) for s in shares), strict=True)
    got = RankShare(*map(sum, sums)).estimate(float(np.linalg.norm(big)), case.batch.counts.divisor)
    weights = _list_weights(case.batch)
    B = float(weights.sum() ** 2 / np.square(weights).sum())
    b = len(sizes) / sum(1 / size for size in sizes)
    norm, small = float(big @ big), sum(squares) / len(squares)
    expected = (B * norm - b * small) / (B - b), (small - norm) / (1 / b - 1 / B)
    yield compare_values("there is an estimate", got is not None, True, EXACT)
    if got is not None:
        size = (small + norm) / (1 / b - 1 / B)
        bound = tolerance.GRADIENT_64
        yield compare_relative("|G|^2", got[0], expected[0], bound, scale=size / b)
        yield compare_relative("tr(Sigma)", got[1], expected[1], bound, scale=size)


def measure_fast_noise(case: Case, backends: Backends) -> Iterator[Measurement]:
    """In float32, as far as its gradients are exact."""
    yield from _measure(case, backends, "float32", tolerance.GRADIENT_32, tolerance.GRADIENT_32)


def measure_float16_noise(case: Case, backends: Backends) -> Iterator[Measurement]:
    """In float16 the loss scale is in neither norm."""
    yield from _measure(case, backends, "float16", tolerance.NORM_F16, tolerance.NORM_F16)


LAWS_64 = (
    Law(
        "L1",
        "gradient-noise",
        "the noise of gradients is that of the definition",
        tolerance.GRADIENT_64,
        measure_noise,
        match_names(*CASES),
        "learner",
    ),
    Law(
        "L1",
        "rank-noise",
        "several ranks' noise of gradients is that of the definition",
        tolerance.GRADIENT_64,
        add_rank_noise,
        match_names("default/", "weighted.targets", "preference.sigmoid/"),
        "learner",
    ),
)
LAWS_32 = (
    Law(
        "L2",
        "gradient-noise",
        "the noise of gradients is that of the definition",
        tolerance.GRADIENT_32,
        measure_fast_noise,
        match_names("default/", "embeddings.tie", "slices.next", "z_loss.targets"),
        "learner",
        "float32",
    ),
)
LAWS_F16 = (
    Law(
        "L3",
        "gradient-noise-float16",
        "the loss scale is not in the noise of gradients",
        tolerance.NORM_F16,
        measure_float16_noise,
        match_names("default/"),
        "learner",
        "float16",
    ),
)

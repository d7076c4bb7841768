"""How far a shorter format may stray on this very input: the oracle with random rounding errors.

Every operation of the oracle is followed by a relative error of the format's unit, at random; the
spread of the results over a few draws is sigma, per token. One multiple of sigma then serves every
depth, width and loudness, where absolute tolerances would have to be set for each.
"""

from dataclasses import dataclass

import numpy as np

from hermes.numerics.randomness import draw_bits
from hermes_conformance.cases.case import SEED, Case, Weights
from hermes_conformance.measure.compare import rms
from hermes_conformance.measure.subject import BackendUnderTest
from hermes_conformance.oracle import complex_step
from hermes_conformance.oracle.tracing_arrays import PRODUCT_UNIT, UNIT, Rule, noisy, wrap
from hermes_numpy.backend import BACKEND as ORACLE

DRAWS = 16


@dataclass(frozen=True)
class Noise:
    """The oracle's logits, (B, T, V); sigma of each token, (B, T); the draws' mean KL from them."""

    logits: np.ndarray
    sigma: np.ndarray
    kl: float
    unit: float


def noise(oracle: BackendUnderTest, case: Case, precision: str) -> Noise:
    """The noise model of the case's first micro-batch, in that format."""

    def make() -> Noise:
        clean = oracle.logits(case)
        rules = _rules(case, precision)
        draws = [_draw(case, rules, precision) for _ in range(DRAWS)]
        errors = np.stack(draws) - clean
        sigma = np.sqrt(np.mean(np.square(errors), axis=(0, 3)))
        kl = float(np.mean([divergence(clean, draw).mean() for draw in draws]))
        return Noise(clean, sigma, kl, UNIT[precision])

    return oracle.once(case, ("noise", precision), make)


def _rules(case: Case, precision: str) -> tuple[Rule, Rule | None]:
    """How every result errs in that format, and what goes into products; None: as it came out."""
    seed = int(draw_bits(SEED, f"conformance/{case.name}/noise/{precision}", 1)[0])
    rng = np.random.Generator(np.random.Philox(seed))
    into = PRODUCT_UNIT.get(precision)
    return noisy(rng, UNIT[precision]), None if into is None else noisy(rng, into)


def _draw(case: Case, rules: tuple[Rule, Rule | None], precision: str) -> np.ndarray:
    """One pass with noise. Below float32 the matrices themselves are rounded too."""
    weights = {}
    for name, value in case.weights.items():
        rounds = UNIT[precision] > UNIT["float32"] and value.ndim > 1
        wide = value.astype(np.float64)
        weights[name] = wrap(rules[0](wide) if rounds else wide, *rules)
    return np.asarray(ORACLE.build(case.spec, weights).logits(case.tokens, case.segments))


@dataclass(frozen=True)
class GradientNoise:
    """Sigma of the training loss, and of each tensor's gradient the norm of its error."""

    loss: float
    norms: dict[str, float]


def gradient_noise(case: Case, precision: str, grads: Weights) -> GradientNoise:
    """How far that format turns each gradient, along directions drawn at random.

    grads: the true ones. Of an error e and directions v of independent normal numbers, the mean of
    <e, v>^2 is |e|^2; a slope along v with noise, less the true one, is such an <e, v>.
    """
    rules, losses, norms = _rules(case, precision), [], {}
    exact, _ = complex_step.loss_and_slope(case.spec, case.params, {}, case.batch, case.dropout)
    for name, value in grads.items():
        apart = []
        for number in range(DRAWS):
            v = case.normals(f"noise {number}/{name}", value.shape).astype(np.float64)
            loss, slope = complex_step.loss_and_slope(
                case.spec, case.params, {name: v}, case.batch, case.dropout, rules=rules
            )
            losses.append(loss - exact)
            apart.append(slope - float((value * v).sum()))
        norms[name] = rms(apart)
    return GradientNoise(rms(losses), norms)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Log-probabilities in float64. (..., V)"""
    x = logits.astype(np.float64)
    x = x - x.max(axis=-1, keepdims=True)
    return x - np.log(np.exp(x).sum(axis=-1, keepdims=True))


def divergence(reference: np.ndarray, got: np.ndarray) -> np.ndarray:
    """KL(reference || got) of each token, in nats, never below 0. (B, T, V) -> (B, T)

    Written so that close distributions do not cancel: sum of p (e^d - 1 - d), d = log q - log p.
    """
    p, q = log_softmax(reference), log_softmax(got)
    d = q - p
    return (np.exp(p) * (np.expm1(d) - d)).sum(axis=-1)

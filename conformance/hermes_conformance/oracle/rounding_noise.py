"""How far a format's rounding moves results on a given input: the oracle with random rounding.

After each operation of the oracle comes a random relative error of the format's unit roundoff; the
spread of the results over a few draws is sigma, for each token. One multiple of sigma then holds at
every depth, width and size of weights, where absolute tolerances would have to be set for each.
Source: Parker, Pierce and Eggert 2000, "Monte Carlo arithmetic".
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from hermes.numerics.randomness import draw_bits
from hermes_conformance.cases.case import SEED, Case, Weights
from hermes_conformance.measure.compare import Measurement, rms
from hermes_conformance.measure.subject import BackendUnderTest
from hermes_conformance.measure.tolerance import Bound
from hermes_conformance.oracle import complex_step
from hermes_conformance.oracle.tracing_arrays import PRODUCT_UNIT, UNIT, Rule, make_noise_rule, wrap
from hermes_numpy.backend import BACKEND as ORACLE

DRAWS = 16


@dataclass(frozen=True)
class LogitNoise:
    """logits: the oracle's, (B, T, V). sigma: of each token, (B, T). kl: mean KL of the draws.

    unit: the format's unit roundoff.
    """

    logits: np.ndarray
    sigma: np.ndarray
    kl: float
    unit: float


def estimate_logit_noise(oracle: BackendUnderTest, case: Case, precision: str) -> LogitNoise:
    """The noise of the logits of the case's first micro-batch in a format."""

    def compute() -> LogitNoise:
        clean = oracle.compute_logits(case)
        rules = _make_rules(case, precision)
        draws = [_draw_logits(case, rules, precision) for _ in range(DRAWS)]
        errors = np.stack(draws) - clean
        sigma = np.sqrt(np.mean(np.square(errors), axis=(0, 3)))
        kl = float(np.mean([kl_divergence(clean, draw).mean() for draw in draws]))
        return LogitNoise(clean, sigma, kl, UNIT[precision])

    return oracle.compute_once(case, ("noise", precision), compute)


def compare_with_noise(
    what: str, got: np.ndarray, noise: LogitNoise, token_bound: Bound, element_bound: Bound
) -> Iterator[Measurement]:
    """Errors of (B, T, V) logits in units of sigma: rms of the worst token, and worst element.

    Of an element's error, 8 units of its own rounding are free: sigma is a token's, and the largest
    elements of a token are rounded more than that.
    """
    apart = np.abs(got.astype(np.float64) - noise.logits)
    apart = np.where(np.isfinite(apart), apart, np.inf)
    floor = np.maximum(noise.sigma, np.finfo(np.float64).tiny)
    tokens = np.sqrt(np.mean(np.square(apart), axis=-1)) / floor
    index = _find_largest(tokens)
    error = float(tokens[index])
    yield Measurement(error, token_bound, f"{what} of a token", got.shape, index)
    excess = np.maximum(apart - 8 * noise.unit * np.abs(noise.logits), 0) / floor[..., None]
    index = _find_largest(excess)
    yield Measurement(float(excess[index]), element_bound, what, got.shape, index)


def _find_largest(values: np.ndarray) -> tuple[int, ...]:
    index = np.unravel_index(int(values.argmax()), values.shape)
    return tuple(int(i) for i in index)


def _make_rules(case: Case, precision: str) -> tuple[Rule, Rule | None]:
    """How results, and inputs of matrix products, are rounded; None: as they come."""
    seed = int(draw_bits(SEED, f"conformance/{case.name}/noise/{precision}", 1)[0])
    rng = np.random.Generator(np.random.Philox(seed))
    product_unit = PRODUCT_UNIT.get(precision)
    product = None if product_unit is None else make_noise_rule(rng, product_unit)
    return make_noise_rule(rng, UNIT[precision]), product


def _draw_logits(case: Case, rules: tuple[Rule, Rule | None], precision: str) -> np.ndarray:
    """One forward pass with noise. In formats below float32 the matrices are rounded too."""
    weights = {}
    for name, value in case.weights.items():
        rounds = UNIT[precision] > UNIT["float32"] and value.ndim > 1
        wide = value.astype(np.float64)
        weights[name] = wrap(rules[0](wide) if rounds else wide, *rules)
    return np.asarray(ORACLE.build(case.spec, weights).logits(case.tokens, case.segments))


@dataclass(frozen=True)
class GradientNoise:
    """loss: sigma of the training loss. norms: norm of the error of each tensor's gradient."""

    loss: float
    norms: dict[str, float]


def estimate_gradient_noise(case: Case, precision: str, grads: Weights) -> GradientNoise:
    """The error that a format's rounding brings to each gradient. grads: the exact ones.

    For an error e and directions v of independent normal numbers, the mean of <e, v>^2 is |e|^2,
    and the slope along v of the oracle with noise, minus the exact slope, is one such <e, v>.
    """
    rules, losses, norms = _make_rules(case, precision), [], {}
    exact, _ = complex_step.compute_loss_and_slope(
        case.spec, case.params, {}, case.batch, case.dropout
    )
    for name, value in grads.items():
        apart = []
        for number in range(DRAWS):
            v = case.draw_normals(f"noise {number}/{name}", value.shape).astype(np.float64)
            loss, slope = complex_step.compute_loss_and_slope(
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


def kl_divergence(reference: np.ndarray, got: np.ndarray) -> np.ndarray:
    """KL(reference || got) of each token, in nats, at least 0. (B, T, V) -> (B, T)

    As the sum of p (e^d - 1 - d) with d = log q - log p, which does not cancel when p and q are
    close: its terms are all positive.
    """
    p, q = log_softmax(reference), log_softmax(got)
    d = q - p
    return (np.exp(p) * (np.expm1(d) - d)).sum(axis=-1)

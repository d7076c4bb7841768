"""L3: kernels of formats shorter than float32, in units of what they can do on this very input.

Of tf32 only what goes into a product is short, so the oracle rounds that alone, and the bounds lie
between inputs of 10 bits, to nearest or towards zero, and of bfloat16's 7.
"""

from collections.abc import Iterator
from functools import cache

import numpy as np

from hermes_conformance.cases.case import Case
from hermes_conformance.laws import kernels
from hermes_conformance.laws.gradients import vanishing
from hermes_conformance.laws.kernels import decoded, own_loss, own_scores, plain, reads_on, within
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measure, relative, rms
from hermes_conformance.measure.law import Law, Sides
from hermes_conformance.oracle.rounding_noise import divergence, gradient_noise, noise


def _errs(precision: str, token_bound: tolerance.Bound, element_bound: tolerance.Bound):
    def law(case: Case, sides: Sides) -> Iterator[Measure]:
        """A short format: per token, per element, as distributions, and in the likeliest token."""
        model_of = noise(sides.oracle, case, precision)
        got = sides.subject.logits(case, precision)
        yield from within("logits", got, model_of, token_bound, element_bound)
        kl = float(divergence(model_of.logits, got).mean())
        yield Measure(kl / model_of.kl if model_of.kl else 0.0, tolerance.KL_16, "mean KL")
        if case.name.endswith("/fresh"):
            yield Measure(kl, tolerance.KL_16_FRESH, "mean KL")
        best = np.sort(model_of.logits, axis=-1)[..., -2:]
        wide = (best[..., 1] - best[..., 0]) > tolerance.TOP_16.limit * model_of.sigma
        differ = (got.argmax(axis=-1) != model_of.logits.argmax(axis=-1)) & wide
        yield Measure(float(differ.sum()), tolerance.EXACT, "likeliest tokens", got.shape[:2])

    return law


def loss_16(case: Case, sides: Sides) -> Iterator[Measure]:
    """A 16-bit model's loss is that of its own scores, reckoned in float32 at least."""
    built = sides.subject.model(case, "bfloat16")
    yield own_loss(case, built, own_scores(case, built))


def gradients_16(case: Case, sides: Sides) -> Iterator[Measure]:
    """Gradients by a 16-bit model, against the same backend's in float64: as large, and alike."""
    _, got = sides.subject.grads(case, "bfloat16")
    _, expected = sides.subject.grads(case)
    whole = _flat(got), _flat(expected)
    norm, true_norm = (float(np.linalg.norm(grads)) for grads in whole)
    yield relative("norm of all gradients", norm, true_norm, tolerance.NORM_16)
    yield Measure(rms(whole[0] - whole[1]) / rms(whole[1]), tolerance.GRADIENT_16, "all gradients")
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"):
        if name in expected:
            apart = rms(np.asarray(got[name], np.float64) - expected[name]) / rms(expected[name])
            yield Measure(apart, tolerance.GRADIENT_16, f"gradient of {name}")


def gradients_tf32(case: Case, sides: Sides) -> Iterator[Measure]:
    """Gradients by products in tf32, against the same backend's in float64, in noise's units."""
    loss, got = sides.subject.grads(case, "tf32")
    true_loss, expected = sides.subject.grads(case)
    model_of = gradient_noise(case, "tf32", expected)
    yield Measure(abs(loss - true_loss) / model_of.loss, tolerance.TENSOR_TF32, "loss")
    apart = {name: float(np.linalg.norm(got[name] - value)) for name, value in expected.items()}
    total, sigma = (float(np.linalg.norm(list(x.values()))) for x in (apart, model_of.norms))
    yield Measure(total / sigma, tolerance.GRADIENT_TF32, "all gradients")
    for name in expected:
        if vanishing(case, name) is None:
            ratio = apart[name] / model_of.norms[name]
            yield Measure(ratio, tolerance.TENSOR_TF32, f"gradient of {name}")


def _flat(grads) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(g, np.float64)) for g in grads.values()])


@cache
def cases(long: bool = False) -> tuple[Case, ...]:
    """Of L3."""
    found = kernels.cases(long)
    always = [c for c in found if c.name.startswith(("decoding.", "preference.", "slices."))]
    ordinary = [case for case in found if plain(case) and case not in always]
    return (*(ordinary if long else ordinary[::2]), *always)


def _law(name, says, check, bound, applies, needs="forward", precision="bfloat16"):
    return Law("L3", name, says, bound, check, applies, needs, precision)


def _is(*prefixes):
    return lambda case: case.name.startswith(prefixes)


LAWS = (
    _law(
        "bfloat16",
        "bfloat16 errs as bfloat16 does",
        _errs("bfloat16", tolerance.TOKEN_16, tolerance.ELEMENT_16),
        tolerance.TOKEN_16,
        plain,
    ),
    _law(
        "decoding",
        "so does its cache",
        decoded("bfloat16", tolerance.TOKEN_16, tolerance.ELEMENT_16),
        tolerance.TOKEN_16,
        lambda case: plain(case) and reads_on(case),
    ),
    _law(
        "loss",
        "a bfloat16 loss is its scores', in float32",
        loss_16,
        tolerance.LOSS_32,
        _is("default/", "output."),
    ),
    _law(
        "gradients",
        "bfloat16 gradients are as large as float64's, and alike",
        gradients_16,
        tolerance.GRADIENT_16,
        _is("default/", "output.", "preference.sig", "slices."),
        "learner",
    ),
    _law(
        "tf32",
        "products in tf32 err as tf32 does",
        _errs("tf32", tolerance.TOKEN_TF32, tolerance.ELEMENT_TF32),
        tolerance.TOKEN_TF32,
        plain,
        precision="tf32",
    ),
    _law(
        "tf32-gradients",
        "so do their gradients",
        gradients_tf32,
        tolerance.GRADIENT_TF32,
        _is("default/", "output.bias", "preference.sigmoid/"),
        "learner",
        precision="tf32",
    ),
    _law(
        "float16",
        "float16 errs as float16 does",
        _errs("float16", tolerance.TOKEN_16, tolerance.ELEMENT_16),
        tolerance.TOKEN_16,
        _is("default/"),
        precision="float16",
    ),
)

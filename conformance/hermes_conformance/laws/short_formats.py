"""L3: kernels in formats shorter than float32, in units of their rounding on the same input.

tf32 shortens only the inputs of matrix products, so the oracle rounds only those. Its bounds accept
inputs of 10 bits, rounded to nearest or towards zero, and not those of 7 bits that bfloat16 has.
"""

from collections.abc import Iterator, Mapping
from functools import cache

import numpy as np

from hermes_conformance.cases.case import Case
from hermes_conformance.laws import kernel_cases, kernels
from hermes_conformance.laws.generation import can_decode, make_decoding_check
from hermes_conformance.laws.gradients import has_gradient
from hermes_conformance.laws.kernels import compare_loss, compute_target_logprobs, is_ordinary
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measurement, compare_relative, rms
from hermes_conformance.measure.law import CasePredicate, Check, Law, Needs, match_names
from hermes_conformance.measure.subject import Backends
from hermes_conformance.measure.tolerance import Bound
from hermes_conformance.oracle.rounding_noise import (
    compare_with_noise,
    estimate_gradient_noise,
    estimate_logit_noise,
    kl_divergence,
)


def _make_logits_check(precision: str, token_bound: Bound, element_bound: Bound) -> Check:
    def check(case: Case, backends: Backends) -> Iterator[Measurement]:
        """Logits per token, per element, as distributions, and by their most likely tokens."""
        noise = estimate_logit_noise(backends.oracle, case, precision)
        got = backends.subject.compute_logits(case, precision)
        yield from compare_with_noise("logits", got, noise, token_bound, element_bound)
        kl = float(kl_divergence(noise.logits, got).mean())
        yield Measurement(kl / noise.kl if noise.kl else 0.0, tolerance.KL_16, "mean KL")
        if case.name.endswith("/fresh"):
            yield Measurement(kl, tolerance.KL_16_FRESH, "mean KL")
        best = np.sort(noise.logits, axis=-1)[..., -2:]
        wide = (best[..., 1] - best[..., 0]) > tolerance.ARGMAX_MARGIN_16.limit * noise.sigma
        differ = (got.argmax(axis=-1) != noise.logits.argmax(axis=-1)) & wide
        yield Measurement(float(differ.sum()), tolerance.EXACT, "likeliest tokens", got.shape[:2])

    return check


def loss_bfloat16(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A bfloat16 model's loss is that of its own logits, summed in float32 at least."""
    model = backends.subject.build_model(case, "bfloat16")
    yield compare_loss(case, model, compute_target_logprobs(case, model))


def gradients_bfloat16(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Gradients in bfloat16 have the length and direction of the same backend's in float64."""
    _, got = backends.subject.compute_grads(case, "bfloat16")
    _, expected = backends.subject.compute_grads(case)
    one, other = _flatten(got), _flatten(expected)
    norm, exact_norm = float(np.linalg.norm(one)), float(np.linalg.norm(other))
    yield compare_relative("norm of all gradients", norm, exact_norm, tolerance.NORM_16)
    yield Measurement(rms(one - other) / rms(other), tolerance.GRADIENT_16, "all gradients")
    for name in ("lm_head.weight", "model.embed_tokens.weight", "model.norm.weight"):
        if name in expected:
            apart = rms(np.asarray(got[name], np.float64) - expected[name]) / rms(expected[name])
            yield Measurement(apart, tolerance.GRADIENT_16, f"gradient of {name}")


def gradients_tf32(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Gradients with products in tf32 against the same backend's in float64, in units of noise."""
    loss, got = backends.subject.compute_grads(case, "tf32")
    exact_loss, expected = backends.subject.compute_grads(case)
    noise = estimate_gradient_noise(case, "tf32", expected)
    yield Measurement(abs(loss - exact_loss) / noise.loss, tolerance.TENSOR_TF32, "loss")
    apart = {name: float(np.linalg.norm(got[name] - value)) for name, value in expected.items()}
    total, sigma = (float(np.linalg.norm(list(x.values()))) for x in (apart, noise.norms))
    yield Measurement(total / sigma, tolerance.GRADIENT_TF32, "all gradients")
    for name in expected:
        if has_gradient(case, name):
            ratio = apart[name] / noise.norms[name]
            yield Measurement(ratio, tolerance.TENSOR_TF32, f"gradient of {name}")


def _flatten(grads: Mapping[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([np.ravel(np.asarray(g, np.float64)) for g in grads.values()])


@cache
def make_cases(long: bool = False) -> tuple[Case, ...]:
    """The cases of L3: those of L2 with logits, every other hot and fresh one in a short run."""
    every = kernel_cases.make_cases(long)
    always = [c for c in every if c.name.startswith(("decoding.", "preference.", "slices."))]
    ordinary = [case for case in every if is_ordinary(case) and case not in always]
    fresh = [case for case in ordinary if case.name.endswith("/fresh")]
    hot = [case for case in ordinary if case not in fresh]
    return (*(ordinary if long else (*hot[::2], *fresh[::2])), *always)


def _make_law(
    name: str,
    statement: str,
    check: Check,
    bound: Bound,
    applies_to: CasePredicate,
    needs: Needs = "forward",
    precision: str = "bfloat16",
) -> Law:
    return Law("L3", name, statement, bound, check, applies_to, needs, precision)


LAWS = (
    _make_law(
        "bfloat16",
        "logits err as bfloat16 does",
        _make_logits_check("bfloat16", tolerance.TOKEN_16, tolerance.ELEMENT_16),
        tolerance.TOKEN_16,
        is_ordinary,
    ),
    _make_law(
        "decoding",
        "logits of the KV cache err as bfloat16 does",
        make_decoding_check("bfloat16", tolerance.TOKEN_16, tolerance.ELEMENT_16),
        tolerance.TOKEN_16,
        lambda case: is_ordinary(case) and can_decode(case),
    ),
    _make_law(
        "loss",
        "a bfloat16 model's loss is that of its logits, in float32",
        loss_bfloat16,
        tolerance.LOSS_32,
        match_names("default/", "output."),
    ),
    _make_law(
        "reference",
        "a policy's first reference is itself in bfloat16",
        kernels.make_reference_check("bfloat16"),
        tolerance.EXACT,
        kernels.has_own_reference,
        "learner",
    ),
    _make_law(
        "gradients",
        "bfloat16 gradients have the length and direction of float64's",
        gradients_bfloat16,
        tolerance.GRADIENT_16,
        match_names("default/", "output.", "preference.sig", "slices."),
        "learner",
    ),
    _make_law(
        "tf32",
        "logits with products in tf32 err as tf32 does",
        _make_logits_check("tf32", tolerance.TOKEN_TF32, tolerance.ELEMENT_TF32),
        tolerance.TOKEN_TF32,
        is_ordinary,
        precision="tf32",
    ),
    _make_law(
        "tf32-gradients",
        "gradients with products in tf32 err as tf32 does",
        gradients_tf32,
        tolerance.GRADIENT_TF32,
        match_names("default/", "output.bias", "preference.sigmoid/"),
        "learner",
        precision="tf32",
    ),
    _make_law(
        "float16",
        "logits err as float16 does",
        _make_logits_check("float16", tolerance.TOKEN_16, tolerance.ELEMENT_16),
        tolerance.TOKEN_16,
        match_names("default/"),
        precision="float16",
    ),
)

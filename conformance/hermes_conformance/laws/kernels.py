"""L2: the kernels of production in float32, in units of float32's rounding on the same input.

This level and L3 judge kernels, not meaning: an eps of 1e-6 for 1e-5, a rope base of 10,001 or a
head in bfloat16 can hide in the rounding of bfloat16. L1 finds those.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from hermes.interface import IGNORE, Model
from hermes_conformance.cases.case import Case
from hermes_conformance.laws import generation, ranges, sources
from hermes_conformance.laws.compiled import catch_compiler_failures
from hermes_conformance.laws.generation import can_decode, make_decoding_check
from hermes_conformance.laws.gradients import has_gradient
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import (
    Measurement,
    compare_absolute,
    compare_bits,
    compare_relative,
    compare_values,
    rms,
)
from hermes_conformance.measure.law import CasePredicate, Check, Law, Needs, match_names
from hermes_conformance.measure.subject import Backends
from hermes_conformance.measure.tolerance import Bound
from hermes_conformance.oracle.rounding_noise import (
    LogitNoise,
    compare_with_noise,
    estimate_logit_noise,
    kl_divergence,
    log_softmax,
)

# Cases of the laws of generation, whose logits and gradients no other law judges.
GENERATED = ("greedy.", "prompt.", "steps.", "choices.")
FEW = 16  # single tokens that are scored together, as in a step of decoding


def fast_logits(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Float32 logits of the fast functions: per token, per element, and as distributions."""
    noise = estimate_logit_noise(backends.oracle, case, "float32")
    got = backends.subject.compute_logits(case, "float32")
    yield from compare_with_noise("logits", got, noise, tolerance.TOKEN_32, tolerance.ELEMENT_32)
    bound = tolerance.KL_32_FRESH if case.name.endswith("/fresh") else tolerance.KL_32_HOT
    yield Measurement(float(kl_divergence(noise.logits, got).max()), bound, "KL of a token")


def exact_logits(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Float32 logits of the exact functions, which are the ones that L1 judges in float64."""
    noise = estimate_logit_noise(backends.oracle, case, "float32")
    got = backends.subject.compute_logits(case, "float32", exact=True)
    yield from compare_with_noise("logits", got, noise, tolerance.TOKEN_32, tolerance.ELEMENT_32)


def error_ratio(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Neither backend's error is much larger than the other's."""
    exact = backends.oracle.compute_logits(case)
    one, other = (
        rms(backend.compute_logits(case, "float32") - exact)
        for backend in (backends.subject, backends.reference)
    )
    for name, error, others in (("subject", one, other), ("reference", other, one)):
        ratio = error / others if others else 0.0
        yield Measurement(ratio, tolerance.ERROR_RATIO, f"rmse of {name}")


def batching(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A row alone has the logits it has in its batch, and a second pass those of the first."""
    noise = estimate_logit_noise(backends.oracle, case, "float32")
    model = backends.subject.build_model(case, "float32")
    segments = None if case.segments is None else case.segments[-1:]
    row = model.logits(case.tokens[-1:], segments)
    here = LogitNoise(noise.logits[-1:], noise.sigma[-1:], noise.kl, noise.unit)
    bounds = tolerance.TOKEN_32, tolerance.ELEMENT_32
    yield from compare_with_noise("last row alone", row, here, *bounds)
    if backends.subject.is_deterministic:
        again = model.logits(case.tokens, case.segments)
        first = backends.subject.compute_logits(case, "float32")
        yield compare_bits("run again", again, first, tolerance.EXACT)


def compute_target_logprobs(case: Case, model: Model) -> list[np.ndarray]:
    """log p(target) by the model's own logits, in float64; 0 where IGNORE. [A x (B, T)]"""
    batch, logprobs = case.batch, []
    for a, targets in enumerate(batch.targets):
        segments = None if batch.segments is None else batch.segments[a]
        scores = log_softmax(model.logits(batch.tokens[a], segments))
        at = np.where(targets == IGNORE, 0, targets)[..., None]
        chosen = np.take_along_axis(scores, at, axis=-1)[..., 0]
        logprobs.append(np.where(targets == IGNORE, 0.0, chosen))
    return logprobs


def compare_loss(case: Case, model: Model, logprobs: list[np.ndarray]) -> Measurement:
    """The model's loss against that of its own logits, summed in float32 at least."""
    parts = zip(logprobs, case.batch.get_weights(), strict=True)
    expected = -sum(float((w * part).sum()) for part, w in parts) / case.batch.own_counts.divisor
    got = model.loss(case.batch)
    return compare_relative("loss", got, expected, tolerance.LOSS_32, max(1.0, abs(expected)))


def logprobs(case: Case, backends: Backends) -> Iterator[Measurement]:
    """The evaluated loss, and each target's log-probability, are those of the model's logits."""
    model = backends.subject.build_model(case, "float32")
    own = compute_target_logprobs(case, model)
    yield compare_loss(case, model, own)
    if case.packed:
        return  # Model.logprobs takes no documents
    for tokens, targets, expected in zip(case.batch.tokens, case.batch.targets, own, strict=True):
        size = np.maximum(1.0, np.abs(expected))
        got = model.logprobs(tokens, targets)
        yield compare_absolute("logprobs", got / size, expected / size, tolerance.LOGPROB_32)


def make_reference_check(precision: str) -> Check:
    """A check of a policy's first reference in a format."""

    def reference_logprobs(case: Case, backends: Backends) -> Iterator[Measurement]:
        """A model built as trained has its learner's row_logprobs to the bit, so h starts at 0."""
        subject = backends.subject
        model = subject.build_model(case, precision, as_trained=True, deterministic=True)
        learner = subject.make_learner(case, precision, deterministic=True)
        tokens, targets = case.tokens, case.batch.targets[0]
        last = np.s_[-2:, -1:]  # of two rows; products of a few rows may have forms of their own
        many = (np.tile(one[last], (FEW // 2, 1)) for one in (tokens, targets))
        for what, rows in (
            ("row_logprobs", (tokens, targets)),
            ("of two tokens", (tokens[last], targets[last])),
            (f"of {FEW} tokens", tuple(many)),
        ):
            got, expected = model.row_logprobs(*rows), learner.row_logprobs(*rows)
            yield compare_bits(what, got, expected, tolerance.EXACT)

    return reference_logprobs


def has_own_reference(case: Case) -> bool:
    """Cases of pairs, but where adapters merged into the reference sum in another order."""
    return case.batch.pairs is not None and case.recipe.lora is None


def gradients(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Gradients in float32 against the same backend's in float64."""
    yield from _compare_gradients(case, backends)


def check_compiled_gradients(case: Case, backends: Backends) -> Iterator[Measurement]:
    """The same of a compiled learner, which does compile."""
    with catch_compiler_failures() as failures:
        found = list(_compare_gradients(case, backends, compile=True))
    yield compare_values("failures to compile", failures, [], tolerance.EXACT)
    yield from found


def _compare_gradients(case: Case, backends: Backends, **fields: Any) -> Iterator[Measurement]:
    """Loss and gradients of a float32 learner with these options against those of float64."""
    loss, got = backends.subject.compute_grads(case, "float32", **fields)
    exact_loss, expected = backends.subject.compute_grads(case)
    scale = max(1.0, abs(exact_loss))
    yield compare_relative("loss", loss, exact_loss, tolerance.LOSS_32, scale)
    norm, exact_norm = (
        float(np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in grads.values())))
        for grads in (got, expected)
    )
    bound = tolerance.bound_norm_32(max(case.spec.vocab_size, case.batch.tokens.size))
    yield compare_relative("norm of all gradients", norm, exact_norm, bound)
    elements = sum(value.size for value in expected.values())
    for name, value in expected.items():
        if has_gradient(case, name):
            # If few rows have a gradient, its rounding is relative to their size; if none has, to
            # that of the other tensors.
            scale = max(rms(value), np.abs(value).max() / 10) or exact_norm / np.sqrt(elements)
            what = f"gradient of {name}"
            yield compare_relative(what, got[name], value, tolerance.GRADIENT_32, scale)


def _make_law(
    name: str,
    statement: str,
    check: Check,
    bound: Bound,
    applies_to: CasePredicate,
    needs: Needs = "forward",
) -> Law:
    return Law("L2", name, statement, bound, check, applies_to, needs, "float32")


def _has_logits(case: Case) -> bool:
    """Cases whose logits are judged."""
    return not case.name.startswith((*GENERATED, "preference.", "slices.", "lora.", "range."))


def _has_steady_gradients(case: Case) -> bool:
    """Cases whose gradients are judged: of the extreme ones, those that count few targets."""
    counts_few = case.name.startswith(("edge.no target", "edge.one target"))
    return counts_few or not case.name.startswith(("edge.", *GENERATED, "range."))


def is_ordinary(case: Case) -> bool:
    """Cases whose logits are judged, of ordinary lengths and sizes."""
    return _has_logits(case) and not case.name.startswith("edge.")


LAWS = (
    _make_law(
        "logits",
        "logits err as float32 does",
        fast_logits,
        tolerance.TOKEN_32,
        _has_logits,
    ),
    _make_law(
        "exact",
        "logits of the exact functions err as float32 does",
        exact_logits,
        tolerance.TOKEN_32,
        is_ordinary,
    ),
    _make_law(
        "peers",
        "both backends err alike",
        error_ratio,
        tolerance.ERROR_RATIO,
        is_ordinary,
        "two learners",
    ),
    _make_law(
        "decoding",
        "logits of the KV cache err as float32 does",
        make_decoding_check("float32", tolerance.TOKEN_32, tolerance.ELEMENT_32),
        tolerance.TOKEN_32,
        lambda case: _has_logits(case) and can_decode(case),
    ),
    _make_law(
        "batching",
        "logits of a row alone err as float32 does",
        batching,
        tolerance.TOKEN_32,
        lambda case: is_ordinary(case) and not case.depends_on_length,
    ),
    _make_law(
        "logprobs",
        "log-probabilities and losses are those of the logits",
        logprobs,
        tolerance.LOGPROB_32,
        match_names("default/", "output.", "embeddings.tie", "slices.next"),
    ),
    _make_law(
        "reference",
        "a policy's first reference is itself",
        make_reference_check("float32"),
        tolerance.EXACT,
        has_own_reference,
        "learner",
    ),
    _make_law(
        "gradients",
        "float32 gradients are close to float64",
        gradients,
        tolerance.GRADIENT_32,
        _has_steady_gradients,
        "learner",
    ),
    _make_law(
        "compiled-gradients",
        "a compiled loss in slices has gradients close to float64",
        check_compiled_gradients,
        tolerance.GRADIENT_32,
        match_names("slices.next", "slices.weighted"),
        "learner",
    ),
    *generation.LAWS_32,
    *sources.LAWS_32,
    *ranges.LAWS_32,
)

"""L6: models of the sizes that are trained, by the kernels that train them, compiled and not.

The other levels ask for determinism where it is granted, and their rows are short: neither chooses
the kernels of production. Here nothing is asked but speed, and results are compared with float64 of
the same backend on the CPU, in units of one rounding of the weights (measure/rounding_bounds.py).
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from hermes.interface import Learner, LossScale
from hermes.spec import ModelSpec
from hermes_conformance.cases.case import Case
from hermes_conformance.laws.compiled import catch_compiler_failures
from hermes_conformance.laws.generation import can_decode
from hermes_conformance.laws.trained_work import (
    make_graphs_check,
    make_kernels_check,
    make_learner,
)
from hermes_conformance.measure.compare import Measurement, compare_values, rms
from hermes_conformance.measure.law import CasePredicate, Check, Law, Needs, match_names
from hermes_conformance.measure.rounding_bounds import bound_element, bound_rounding
from hermes_conformance.measure.subject import Backends, BackendUnderTest
from hermes_conformance.measure.tolerance import EXACT
from hermes_conformance.oracle.rounding_noise import LogitNoise, compare_with_noise
from hermes_conformance.oracle.tracing_arrays import UNIT
from hermes_conformance.oracle.weight_noise import (
    UPDATES,
    Noisy,
    compute_error,
    compute_gradients,
    compute_logits,
    compute_updates,
    estimate_noise,
    get_unit,
)

PRECISIONS = ("float32", "tf32", "bfloat16", "float16")
PIECES = (0.5, 0.75)  # of a row, read at once while decoding; the last tokens come one by one


def count_terms(spec: ModelSpec, tokens: int) -> int:
    """The terms of the longest sum of products: over a width, a row, or all tokens."""
    widths = [spec.hidden_size]
    for layer in spec.layers:
        if layer.attention:
            widths.append(layer.attention.num_heads * layer.attention.head_size)
        if layer.ffn:
            widths.append(layer.ffn.hidden_size)
    return max(*widths, tokens)


def _estimate_logit_noise(subject: BackendUnderTest, case: Case, precision: str) -> LogitNoise:
    noisy = estimate_noise(subject, case, precision, "logits", compute_logits(case))
    return LogitNoise(noisy.exact["logits"], noisy.get_sigmas("logits"), 0.0, get_unit(precision))


def _make_logits_check(precision: str) -> Check:
    def logits(case: Case, backends: Backends) -> Iterator[Measurement]:
        """Logits of a learner, per token and per element."""
        learner = make_learner(backends.subject, case, precision)
        got = learner.logits(case.tokens, case.segments)
        noise = _estimate_logit_noise(backends.subject, case, precision)
        terms = count_terms(case.spec, case.T)
        bounds = bound_rounding(precision, terms), bound_element(precision, terms)
        yield from compare_with_noise("logits", got, noise, *bounds)

    return logits


def _make_decoding_check(precision: str) -> Check:
    def decoding(case: Case, backends: Backends) -> Iterator[Measurement]:
        """A row read in pieces has the logits of one pass."""
        subject = backends.subject
        noise = _estimate_logit_noise(subject, case, precision)
        terms = count_terms(case.spec, case.T)
        bounds = bound_rounding(precision, terms), bound_element(precision, terms)
        cuts = (*(int(share * case.T) for share in PIECES), case.T - 2, case.T - 1)
        pieces = subject.decode(case, cuts, precision, deterministic=False)
        for end, got in zip((*cuts, case.T), pieces, strict=True):
            at = slice(end - 1, end)
            here = LogitNoise(noise.logits[:, at], noise.sigma[:, at], 0.0, noise.unit)
            what = f"logits after {end} tokens"
            yield from compare_with_noise(what, got[:, None], here, *bounds)

    return decoding


def _compare_loss(
    subject: BackendUnderTest, case: Case, precision: str, noisy: Noisy, got: Any
) -> Measurement:
    """Losses in units of sigma. A loss moves at most as the logits of its tokens do on average."""
    tokens = float(_estimate_logit_noise(subject, case, precision).sigma.mean())
    bound = bound_rounding(precision, count_terms(case.spec, case.batch.tokens.size))
    error = compute_error(noisy, "loss", np.asarray(got, np.float64), tokens)
    return Measurement(error, bound, "loss")


def _compare_gradients(
    subject: BackendUnderTest, case: Case, precision: str, learner: Learner
) -> Iterator[Measurement]:
    """Loss and gradients of a learner against float64's."""
    got = compute_gradients(case)(learner)
    noisy = estimate_noise(subject, case, precision, "gradients", compute_gradients(case))
    yield _compare_loss(subject, case, precision, noisy, got["loss"])
    terms = count_terms(case.spec, case.batch.tokens.size)
    bound = bound_rounding(precision, terms, backward=True)
    for name, value in noisy.exact.items():
        if name != "loss":
            floor = get_unit(precision) * rms(value) / np.sqrt(3)  # its own last rounding
            error = compute_error(noisy, name, got[name], floor)
            yield Measurement(error, bound, f"gradient of {name}", value.shape)


def _compare_updates(
    subject: BackendUnderTest, case: Case, precision: str, learner: Learner
) -> Iterator[Measurement]:
    """Losses of a few updates and what they changed, against float64's."""
    got = compute_updates(case)(learner)
    if precision == "float16":  # no update overflowed, so none was left out
        expected = LossScale(case.recipe.loss_scaling.initial, UPDATES)
        yield compare_values("loss scale", learner.state().loss_scale, expected, EXACT)
    noisy = estimate_noise(subject, case, precision, "updates", compute_updates(case), linear=False)
    yield _compare_loss(subject, case, precision, noisy, got["loss"])
    terms = count_terms(case.spec, case.batch.tokens.size)
    bound = bound_rounding(precision, terms, backward=True)
    for name, value in noisy.exact.items():
        if name != "loss":
            # A master weight is float32, and rounded at each update.
            master = UNIT["float32"] * rms(case.params[name]) * np.sqrt(UPDATES)
            own = get_unit(precision) * rms(value)
            error = compute_error(noisy, name, got[name], float(np.hypot(master, own) / np.sqrt(3)))
            yield Measurement(error, bound, f"change of {name}", value.shape)


def _make_gradients_check(precision: str) -> Check:
    def gradients(case: Case, backends: Backends) -> Iterator[Measurement]:
        """Loss and gradients of an eager learner."""
        learner = make_learner(backends.subject, case, precision)
        yield from _compare_gradients(backends.subject, case, precision, learner)

    return gradients


def _make_updates_check(precision: str) -> Check:
    def updates(case: Case, backends: Backends) -> Iterator[Measurement]:
        """A few updates of an eager learner."""
        learner = make_learner(backends.subject, case, precision)
        yield from _compare_updates(backends.subject, case, precision, learner)

    return updates


def _make_compiled_check(precision: str) -> Check:
    def compiled(case: Case, backends: Backends) -> Iterator[Measurement]:
        """Gradients, and a few updates, of a compiled learner."""
        subject = backends.subject
        with catch_compiler_failures() as failures:
            learner = make_learner(subject, case, precision, compile=True)
            yield from _compare_gradients(subject, case, precision, learner)
            yield from _compare_updates(subject, case, precision, learner)
        yield compare_values("failures to compile", failures, [], EXACT)

    return compiled


def _make_laws(precision: str) -> Iterator[Law]:
    bound = bound_rounding(precision, 0)
    backward = bound_rounding(precision, 0, backward=True)

    def make(
        name: str,
        statement: str,
        check: Check,
        applies_to: CasePredicate,
        needs: Needs = "learner",
        **fields: Any,
    ) -> Law:
        limits = {"bound": bound, **fields}
        return Law("L6", f"{name}-{precision}", f"{statement} in {precision}", check=check,
                   applies_to=applies_to, needs=needs, precision=precision, **limits)  # fmt: skip

    everywhere, whole = match_names("small.", "whole."), match_names("whole.")
    yield make(
        "logits",
        "a learner's logits round as they should",
        _make_logits_check(precision),
        everywhere,
    )
    yield make(
        "decoding",
        "a row read in pieces has the logits of one pass",
        _make_decoding_check(precision),
        can_decode,
        "forward",
    )
    yield make(
        "gradients",
        "a learner's gradients round as they should",
        _make_gradients_check(precision),
        everywhere,
        bound=backward,
    )
    yield make(
        "updates",
        "five updates round as they should",
        _make_updates_check(precision),
        match_names("small.15x64 causal", "whole."),
        bound=backward,
    )
    yield make(
        "compiled",
        "a compiled learner's gradients and updates round as they should",
        _make_compiled_check(precision),
        whole,
        bound=backward,
        long=True,
    )
    yield make(
        "kernels",
        "attention is fused, or is not for a reason, and the host waits once",
        make_kernels_check(precision),
        everywhere,
        bound=EXACT,
    )
    yield make(
        "graphs",
        "a compiled learner is one whole graph for each shape",
        make_graphs_check(precision),
        whole,
        bound=EXACT,
        long=True,
    )


LAWS = tuple(law for precision in PRECISIONS for law in _make_laws(precision))

"""L1: what a model means, in float64, where no mistake can hide in rounding."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate, cycle, takewhile
from typing import cast

import numpy as np

from hermes.interface import IGNORE
from hermes_conformance.cases import decoding_specs
from hermes_conformance.cases.case import Case
from hermes_conformance.cases.standard import (
    make_edge_cases,
    make_objective_cases,
    make_standard_cases,
    make_wide_cases,
)
from hermes_conformance.golden import vectors
from hermes_conformance.laws import documents, ranges, sources
from hermes_conformance.laws.gradients import (
    compare_gradient,
    derivatives,
    freezing,
    gradients,
    has_gradient,
    micro_batches,
    shares,
)
from hermes_conformance.laws.preferences import own_reference, row_logprobs
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measurement, compare_absolute, compare_relative, rms
from hermes_conformance.measure.law import CasePredicate, Check, Law, Needs, match_all, match_names
from hermes_conformance.measure.subject import Backends
from hermes_conformance.measure.tolerance import Bound
from hermes_numpy.inference import Model as OracleModel


def logits(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Logits agree with the reference's."""
    got, expected = backends.subject.compute_logits(case), backends.reference.compute_logits(case)
    yield compare_relative("logits", got, expected, tolerance.LOGITS_64)


def float32_rounding(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Logits round to the same float32, except next to a midpoint between two float32 numbers."""
    got, expected = backends.subject.compute_logits(case), backends.reference.compute_logits(case)
    narrow, wanted = got.astype(np.float32), expected.astype(np.float32)
    other = np.nextafter(wanted, np.where(wanted < expected, np.inf, -np.inf).astype(np.float32))
    midpoint = (wanted.astype(np.float64) + other.astype(np.float64)) / 2
    near = np.abs(expected - midpoint) <= tolerance.MIDPOINT.limit * rms(expected)
    differ = (narrow != wanted) & ~near
    index = tuple(int(i) for i in np.argwhere(differ)[0]) if differ.any() else ()
    count = float(differ.sum())
    yield Measurement(count, tolerance.EXACT, "float32(logits)", got.shape, index)
    # In a small tensor a single element may be more than the allowed share.
    share = tolerance.MIDPOINT_SHARE
    share = replace(share, limit=max(share.limit, 1 / got.size))
    exempt = (narrow != wanted) & near
    yield Measurement(float(exempt.mean()), share, "logits exempt at a midpoint", got.shape)


def loss(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Losses without dropout agree: nats per counted token of all micro-batches."""
    got = backends.subject.build_model(case).loss(case.batch)
    expected = backends.reference.build_model(case).loss(case.batch)
    yield compare_absolute("loss", got, expected, tolerance.LOSS_64.scale_to(expected))


def logprobs(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Log-probabilities of targets agree, and are exactly 0 where a target does not count."""
    targets = case.batch.targets[0]
    got = backends.subject.build_model(case).logprobs(case.tokens, targets)
    expected = backends.reference.build_model(case).logprobs(case.tokens, targets)
    yield compare_relative("logprobs", got, expected, tolerance.LOGITS_64)
    ignored = float(np.abs(got[targets == IGNORE]).sum())
    yield Measurement(ignored, tolerance.EXACT, "logprobs of no target")


def dropout(case: Case, backends: Backends) -> Iterator[Measurement]:
    """The training loss with the dropout masks of the first step is the oracle's."""
    got, _ = backends.subject.compute_grads(case)
    oracle = cast(OracleModel, backends.oracle.build_model(case))  # only its loss takes dropout
    expected = oracle.loss(case.batch, dropout=case.dropout)
    yield compare_absolute("loss with dropout", got, expected, tolerance.LOSS_64.scale_to(expected))


def decoding(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A KV cache, read in pieces, gives the logits of the reference's full pass."""
    reference = backends.reference
    whole = reference.compute_once(
        case, "unpacked", lambda: reference.build_model(case).logits(case.tokens)
    )
    cuts = choose_cuts(case)
    for end, got in zip((*cuts, case.T), backends.subject.decode(case, cuts), strict=True):
        what = f"logits after {end} tokens"
        yield compare_relative(what, got, whole[:, end - 1], tolerance.LOGITS_64)


def choose_cuts(case: Case) -> tuple[int, ...]:
    """Where the decoder's reads end: a prefill, a read of two tokens, another, single tokens."""
    if case.reads:
        return tuple(takewhile(lambda end: end < case.T, accumulate(cycle(case.reads))))
    ends = {case.T // 2, case.T // 2 + 2, *range(case.T - 2, case.T)}
    return tuple(sorted(end for end in ends if 0 < end < case.T))


def packing(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A document packed with others has the logits that it has alone."""
    assert case.segments is not None, "the case is packed"
    model, whole = backends.subject.build_model(case), backends.subject.compute_logits(case)
    for b, row in enumerate(case.segments):
        for document in np.unique(row):
            at = np.flatnonzero(row == document)
            alone = model.logits(case.tokens[b : b + 1, at])[0]
            what = f"row {b}, document {document}"
            yield compare_relative(what, whole[b, at], alone, tolerance.REORDER_64)


def batching(case: Case, backends: Backends) -> Iterator[Measurement]:
    """A row alone and cut short has its logits in the batch: no other row, no later token leaks."""
    model, whole = backends.subject.build_model(case), backends.subject.compute_logits(case)
    length = case.T // 2 + 1 if case.can_decode else case.T
    segments = None if case.segments is None else case.segments[-1:, :length]
    got = model.logits(case.tokens[-1:, :length], segments)
    expected = whole[-1:, :length]
    yield compare_relative("last row, cut short", got, expected, tolerance.REORDER_64)


def golden(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Logits, loss and, if the subject trains, all gradients are those of the golden vectors."""
    stored = vectors.read_vectors(case.name)
    assert stored.logits is not None, "only training runs have no logits"
    got = backends.subject.compute_logits(case)
    yield compare_relative("logits", got, stored.logits, tolerance.LOGITS_64)
    if backends.subject.trains:
        loss, grads = backends.subject.compute_grads(case)
        yield compare_absolute("loss", loss, stored.loss, tolerance.LOSS_64.scale_to(stored.loss))
        for name, value in stored.gradient.items():
            if has_gradient(case, name):
                yield compare_gradient(f"gradient of {name}", grads[name], value)


def _is_packed(case: Case) -> bool:
    """Packed cases; a document alone is a shorter row, which under some ropes is another table."""
    return case.packed and not case.depends_on_length


_is_golden = match_names("golden.")
_is_decoding = match_names("decoding.")


def _is_steady(case: Case) -> bool:
    """All cases but the one whose angles of 100,000 radians are themselves known to 1e-11 only."""
    return "100,000" not in case.name


def _compares_gradients(case: Case) -> bool:
    """All cases but those that saturate, whose gradients vanish."""
    return case.head_gain == 1.0 and "saturated" not in case.name


def make_cases(long: bool = False) -> tuple[Case, ...]:
    """The cases of L1."""
    stored = tuple(case for case in vectors.read_stored_cases() if _is_golden(case))
    others = *make_edge_cases(), *make_objective_cases(), *make_wide_cases()
    others += decoding_specs.make_ring_cases()
    of_parts = *documents.make_cases(), *ranges.make_cases()
    return (*make_standard_cases(long), *others, *of_parts, *stored)


def _make_law(
    name: str,
    statement: str,
    check: Check,
    bound: Bound = tolerance.LOGITS_64,
    applies_to: CasePredicate = match_all,
    needs: Needs = "forward",
) -> Law:
    """A law of L1 for what no other law has cases of its own for.

    Of the golden cases, only `golden` and `decoding` check anything more, and of those of decoding
    `logits` and `decoding`.
    """

    def applies(case: Case) -> bool:
        if documents.is_of_documents(case) or ranges.is_of_ranges(case):
            return False
        if _is_decoding(case):
            return name in ("logits", "decoding")
        return (name in ("golden", "decoding") or not _is_golden(case)) and applies_to(case)

    return Law("L1", name, statement, bound, check, applies, needs)


LAWS = (
    _make_law("golden", "results are those of the golden vectors", golden, applies_to=_is_golden),
    _make_law("logits", "logits agree", logits),
    _make_law(
        "float32",
        "logits round to the same float32, bit for bit",
        float32_rounding,
        tolerance.EXACT,
        _is_steady,
    ),
    _make_law("loss", "losses agree", loss, tolerance.LOSS_64),
    _make_law(
        "logprobs",
        "log-probabilities of targets agree",
        logprobs,
        applies_to=lambda case: not case.packed,
    ),
    _make_law(
        "row-logprobs",
        "summed log-probabilities of rows agree",
        row_logprobs,
        applies_to=lambda case: case.recipe.objective == "preference",
    ),
    _make_law(
        "own-reference",
        "a policy that is its own reference starts at h = 0",
        own_reference,
        tolerance.LOSS_64,
        match_names("preference."),
        "learner",
    ),
    _make_law(
        "decoding",
        "a KV cache changes nothing",
        decoding,
        applies_to=lambda case: case.can_decode,
    ),
    _make_law(
        "packing",
        "packed documents do not see each other",
        packing,
        tolerance.REORDER_64,
        _is_packed,
    ),
    _make_law(
        "batching",
        "no other row and no later token is seen",
        batching,
        tolerance.REORDER_64,
        lambda case: not case.depends_on_length,
    ),
    _make_law(
        "dropout",
        "losses with dropout agree, so the masks do",
        dropout,
        tolerance.LOSS_64,
        lambda case: case.spec.has_dropout,
        "learner",
    ),
    _make_law(
        "gradients",
        "gradients agree",
        gradients,
        tolerance.GRADIENT_64,
        _compares_gradients,
        "two learners",
    ),
    _make_law(
        "derivatives",
        "gradients agree with the oracle's derivatives",
        derivatives,
        tolerance.DERIVATIVE_64,
        _compares_gradients,
        "one learner",
    ),
    _make_law(
        "micro-batches",
        "how samples are split into micro-batches changes nothing",
        micro_batches,
        tolerance.GRADIENT_64,
        _compares_gradients,
        "learner",
    ),
    _make_law(
        "shares",
        "the ranks' shares of a step add up to it",
        shares,
        tolerance.GRADIENT_64,
        match_names("default/", "every dropout/", "preference.", "edge.no target"),
        "learner",
    ),
    _make_law(
        "freezing",
        "frozen layers leave the other gradients as they were",
        freezing,
        tolerance.GRADIENT_64,
        match_names("default/", "model.pattern/", "embeddings.tie"),
        "learner",
    ),
    *documents.LAWS,
    *ranges.LAWS_64,
    *sources.LAWS_64,
)

"""L1: the meaning of the model, in float64, where rounding cannot hide a mistake."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from hermes.interface import IGNORE
from hermes_conformance.cases.case import Case
from hermes_conformance.golden import vectors
from hermes_conformance.laws.gradients import (
    derivatives,
    frozen,
    gradients,
    shares,
    splits,
    vanishing,
)
from hermes_conformance.laws.pairs import own_reference, rows
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measure, absolute, relative, rms
from hermes_conformance.measure.law import Law, Sides


def logits(case: Case, sides: Sides) -> Iterator[Measure]:
    """The scores themselves."""
    got, expected = sides.subject.logits(case), sides.reference.logits(case)
    yield relative("logits", got, expected, tolerance.LOGITS_64)


def rounded(case: Case, sides: Sides) -> Iterator[Measure]:
    """Float32 roundings, bit for bit, but for values next to a midpoint between two floats."""
    got, expected = sides.subject.logits(case), sides.reference.logits(case)
    narrow, wanted = got.astype(np.float32), expected.astype(np.float32)
    other = np.nextafter(wanted, np.where(wanted < expected, np.inf, -np.inf).astype(np.float32))
    midpoint = (wanted.astype(np.float64) + other.astype(np.float64)) / 2
    near = np.abs(expected - midpoint) <= tolerance.MIDPOINT.limit * rms(expected)
    differ = (narrow != wanted) & ~near
    index = tuple(int(i) for i in np.argwhere(differ)[0]) if differ.any() else ()
    yield Measure(float(differ.sum()), tolerance.EXACT, "float32(logits)", got.shape, index)
    share = tolerance.MIDPOINT_SHARE  # of a small tensor, one element may be more than the share
    share = replace(share, limit=max(share.limit, 1 / got.size))
    exempt = (narrow != wanted) & near
    yield Measure(float(exempt.mean()), share, "logits exempt at a midpoint", got.shape)


def loss(case: Case, sides: Sides) -> Iterator[Measure]:
    """Nats per counted token of all micro-batches, without dropout."""
    got = sides.subject.model(case).loss(case.batch)
    expected = sides.reference.model(case).loss(case.batch)
    yield absolute("loss", got, expected, tolerance.LOSS_64.scaled(expected))


def logprobs(case: Case, sides: Sides) -> Iterator[Measure]:
    """Each target's log-probability; exactly 0 where it does not count."""
    targets = case.batch.targets[0]
    got = sides.subject.model(case).logprobs(case.tokens, targets)
    expected = sides.reference.model(case).logprobs(case.tokens, targets)
    yield relative("logprobs", got, expected, tolerance.LOGITS_64)
    yield Measure(
        float(np.abs(got[targets == IGNORE]).sum()), tolerance.EXACT, "logprobs of no target"
    )


def dropped(case: Case, sides: Sides) -> Iterator[Measure]:
    """The training loss, with the dropout masks of the first update."""
    got, _ = sides.subject.grads(case)
    expected = sides.oracle.model(case).loss(case.batch, dropout=case.dropout)
    yield absolute("loss with dropout", got, expected, tolerance.LOSS_64.scaled(expected))


def decoding(case: Case, sides: Sides) -> Iterator[Measure]:
    """A cache read in pieces gives what the reference's full pass gives at the same place."""
    plain = sides.reference.once(
        case, "unpacked", lambda: sides.reference.model(case).logits(case.tokens)
    )
    cuts = cut(case)
    for end, got in zip((*cuts, case.T), sides.subject.decoded(case, cuts), strict=True):
        yield relative(f"logits after {end} tokens", got, plain[:, end - 1], tolerance.LOGITS_64)


def cut(case: Case) -> tuple[int, ...]:
    """Where the decoder's reads end: a prefill, a second one, then single tokens."""
    pieces = {case.T // 2, case.T // 2 + 2, *range(case.T - 2, case.T)}
    return tuple(sorted(at for at in pieces if 0 < at < case.T))


def alone(case: Case, sides: Sides) -> Iterator[Measure]:
    """A document packed among others, or after padding, as if it stood alone."""
    subject, whole = sides.subject.model(case), sides.subject.logits(case)
    for b, row in enumerate(case.segments):
        for document in np.unique(row):
            at = np.flatnonzero(row == document)
            got = whole[b, at]
            expected = subject.logits(case.tokens[b : b + 1, at])[0]
            yield relative(f"row {b}, document {document}", got, expected, tolerance.SPLIT_64)


def prefix(case: Case, sides: Sides) -> Iterator[Measure]:
    """A row alone and cut short scores as it does in the batch: no row and no later token leaks."""
    subject, whole = sides.subject.model(case), sides.subject.logits(case)
    short = case.T // 2 + 1 if case.decodes else case.T
    segments = None if case.segments is None else case.segments[-1:, :short]
    got = subject.logits(case.tokens[-1:, :short], segments)
    yield relative("last row, cut short", got, whole[-1:, :short], tolerance.SPLIT_64)


def golden(case: Case, sides: Sides) -> Iterator[Measure]:
    """The committed vectors: logits, loss and, where the subject trains, every gradient."""
    stored = vectors.read(case.name)
    yield relative("logits", sides.subject.logits(case), stored.logits, tolerance.LOGITS_64)
    if sides.subject.trains:
        loss, grads = sides.subject.grads(case)
        yield absolute("loss", loss, stored.loss, tolerance.LOSS_64.scaled(stored.loss))
        for name, value in stored.gradient.items():
            if vanishing(case, name) is None:
                yield relative(f"gradient of {name}", grads[name], value, tolerance.GRADIENT_64)


def _packed(case: Case) -> bool:
    return case.packed


def _is(*prefixes):
    return lambda case: case.name.startswith(prefixes)


_golden = _is("golden.")


def _steady(case: Case) -> bool:
    """All but the case whose angles of 100,000 radians are themselves known to 1e-11 only."""
    return "100,000" not in case.name


def _learns(case: Case) -> bool:
    """Cases that measure gradients: all but those made to saturate."""
    return case.gain == 1.0 and "saturated" not in case.name


def _law(name, says, check, bound=tolerance.LOGITS_64, applies=None, needs="forward"):
    """A law of L1; of the committed vectors, only `golden` and `decoding` ask anything more."""

    def takes(case: Case) -> bool:
        wanted = name in ("golden", "decoding") or not _golden(case)
        return wanted and (applies is None or applies(case))

    return Law("L1", name, says, bound, check, takes, needs)


LAWS = (
    _law("golden", "the committed vectors are met", golden, applies=_golden),
    _law("logits", "logits agree", logits),
    _law(
        "float32",
        "logits round to the same float32, bit for bit",
        rounded,
        tolerance.EXACT,
        _steady,
    ),
    _law("loss", "losses agree", loss, tolerance.LOSS_64),
    _law(
        "logprobs",
        "log-probabilities of targets agree",
        logprobs,
        applies=lambda case: not case.packed,
    ),
    _law(
        "row-logprobs",
        "summed log-probabilities of rows agree",
        rows,
        applies=lambda case: case.recipe.objective == "preference",
    ),
    _law(
        "own-reference",
        "a policy that is its own reference starts at h = 0",
        own_reference,
        tolerance.LOSS_64,
        _is("preference."),
        "learner",
    ),
    _law("decoding", "a KV cache changes nothing", decoding, applies=lambda case: case.decodes),
    _law("packing", "packed documents do not meet", alone, tolerance.SPLIT_64, _packed),
    _law("batching", "no other row and no later token is seen", prefix, tolerance.SPLIT_64),
    _law(
        "dropout",
        "the loss with dropout agrees, so the masks do",
        dropped,
        tolerance.LOSS_64,
        lambda case: case.spec.has_dropout,
        "learner",
    ),
    _law("gradients", "gradients agree", gradients, tolerance.GRADIENT_64, _learns, "peer"),
    _law(
        "derivatives",
        "gradients agree with the oracle's derivatives",
        derivatives,
        tolerance.DERIVATIVE_64,
        lambda case: _learns(case) and not (case.recipe.lora and case.recipe.lora.dropout),
        "alone",
    ),
    _law(
        "micro-batches",
        "how samples are split into micro-batches changes nothing",
        splits,
        tolerance.GRADIENT_64,
        _learns,
        "learner",
    ),
    _law(
        "shares",
        "the shares of an update add up to it",
        shares,
        tolerance.GRADIENT_64,
        _is("default/", "every dropout/", "preference.", "edge.no target"),
        "learner",
    ),
    _law(
        "freezing",
        "frozen layers leave the other gradients as they were",
        frozen,
        tolerance.GRADIENT_64,
        _is("default/", "model.pattern/", "embeddings.tie"),
        "learner",
    ),
)

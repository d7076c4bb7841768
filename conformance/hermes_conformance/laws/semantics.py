"""L1: the meaning of the model, in float64, where rounding cannot hide a mistake."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from hermes.seam import IGNORE, Batch, Model
from hermes_conformance import differences, tolerance
from hermes_conformance.case import Case
from hermes_conformance.compare import Measure, absolute, relative, rms
from hermes_conformance.golden import vectors
from hermes_conformance.law import Law, Sides


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
    yield absolute("loss", got, expected, scaled(tolerance.LOSS_64, expected))


def scaled(bound: tolerance.Bound, size: float) -> tolerance.Bound:
    """The bound for a quantity of that size, where it is beyond 10."""
    return replace(bound, limit=bound.limit * max(1.0, abs(size) / 10))


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
    yield absolute("loss with dropout", got, expected, scaled(tolerance.LOSS_64, expected))


def vanishing(case: Case, name: str) -> str | None:
    """Why a tensor's gradient is mathematically zero, so that all one could compare is rounding."""
    parts = name.split(".")
    if parts[-2:] == ["k_proj", "bias"]:
        block = case.spec.layers[int(parts[2])]
        a = block.attention
        if not a.rotary_size and a.qk_norm == "none" and a.softcap is None:
            return "without rope a key bias adds the same to every score of a query"
    return None


def size_of(grads: differences.Weights, name: str) -> float:
    """What a gradient's rounding is measured beside: its own rms.

    A key bias's is a sum over keys that cancels where they are alike, so its terms are as large as
    those of the query's bias, and so is their rounding.
    """
    query = name.replace("k_proj.bias", "q_proj.bias")
    return max(rms(np.asarray(grads[name])), rms(np.asarray(grads.get(query, grads[name]))))


def gradients(case: Case, sides: Sides) -> Iterator[Measure]:
    """Every tensor's gradient, against another backend's."""
    _, got = sides.subject.grads(case)
    _, expected = sides.reference.grads(case)
    for name in expected:
        if vanishing(case, name) is None:
            size = size_of(expected, name)
            what = f"gradient of {name}"
            yield relative(what, got[name], expected[name], tolerance.GRADIENT_64, scale=size)


def derivatives(case: Case, sides: Sides) -> Iterator[Measure]:
    """<gradient, v> against the oracle's derivative along v; tensor by tensor if they part."""
    loss, got = sides.subject.grads(case)
    toward = differences.direction(case, 0)
    expected, whole = _derivative("all gradients", case, got, toward)
    yield absolute("training loss", loss, expected, scaled(tolerance.LOSS_64, expected))
    yield whole
    if whole.ratio > 1:
        for name in toward:
            yield _derivative(f"gradient of {name}", case, got, {name: toward[name]})[1]


def _derivative(what, case, grads, toward):
    loss, expected = differences.loss_and_slope(
        case.spec, case.params, toward, case.batch, case.dropout, case.recipe
    )
    got = sum(float((grads[name] * toward[name]).sum()) for name in toward)
    size = max(differences.natural_size(grads, toward), abs(expected))
    return loss, relative(what, got, expected, tolerance.DERIVATIVE_64, scale=size or 1.0)


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


def splits(case: Case, sides: Sides) -> Iterator[Measure]:
    """The same samples as one micro-batch or as several: same loss, same gradients."""
    loss_a, grads_a = sides.subject.grads(case)
    loss_b, grads_b = sides.subject.learner(case).grads(joined(case.batch))
    yield absolute("loss", loss_a, loss_b, scaled(tolerance.LOSS_64, loss_b))
    for name, value in grads_a.items():
        if vanishing(case, name) is None:
            other, size = np.asarray(grads_b[name]), size_of(grads_b, name)
            yield relative(f"gradient of {name}", value, other, tolerance.GRADIENT_64, scale=size)


def shares(case: Case, sides: Sides) -> Iterator[Measure]:
    """An update cut in two as processes cut it: losses and gradients of the shares add up to it."""
    loss, whole = sides.subject.grads(case)
    parts = [sides.subject.learner(case).grads(share) for share in _shares(case.batch)]
    got = sum(part for part, _ in parts)
    yield absolute("sum of the losses", got, loss, scaled(tolerance.LOSS_64, loss))
    for name, value in whole.items():
        if vanishing(case, name) is None:
            total = sum(np.asarray(grads[name]) for _, grads in parts)
            what = f"sum of the gradients of {name}"
            yield relative(what, total, value, tolerance.GRADIENT_64, scale=size_of(whole, name))


def _shares(batch: Batch) -> Iterator[Batch]:
    """Each micro-batch as a process's share of the update."""
    for a in range(len(batch.tokens)):
        at = slice(a, a + 1)
        segments = None if batch.segments is None else batch.segments[at]
        pairs = batch.pairs and replace(batch.pairs, reference=batch.pairs.reference[at])
        rows = batch.rows[at]
        yield Batch(batch.tokens[at], batch.targets[at], rows, segments, pairs, batch.counts)


def joined(batch: Batch) -> Batch:
    """The update as one micro-batch; of pairs, all chosen rows before all rejected ones."""
    halves = 1 if batch.pairs is None else 2

    def flat(x):
        if x is None:
            return None
        A, B = x.shape[:2]
        split = x.reshape(A, halves, B // halves, *x.shape[2:])
        return split.swapaxes(0, 1).reshape(1, A * B, *x.shape[2:])

    pairs = batch.pairs and replace(batch.pairs, reference=flat(batch.pairs.reference))
    return Batch(
        flat(batch.tokens), flat(batch.targets), flat(batch.rows), flat(batch.segments), pairs
    )


def rows(case: Case, sides: Sides) -> Iterator[Measure]:
    """A row's summed log-probability, which is what preferences are made of."""
    tokens, targets = case.tokens, case.batch.targets[0]
    got = sides.subject.model(case).row_logprobs(tokens, targets)
    expected = sides.reference.model(case).row_logprobs(tokens, targets)
    yield relative("row_logprobs", got, expected, tolerance.LOGITS_64)
    if case.batch.pairs is not None:
        for name, one, other in zip(
            ("loss of pairs", "rows of pairs"),
            sides.subject.model(case).preferences(case.batch),
            sides.reference.model(case).preferences(case.batch),
            strict=True,
        ):
            yield relative(name, one, other, tolerance.LOGITS_64)


def own_reference(case: Case, sides: Sides) -> Iterator[Measure]:
    """The first update of a run of preferences: the reference is the policy itself, so h is 0."""
    loss, got = sides.subject.learner(case).grads(_own(sides.subject.model(case), case.batch))
    toward = differences.direction(case, 0)
    expected, slope = differences.loss_and_slope(
        case.spec, case.params, toward, _own(sides.oracle.model(case), case.batch)
    )
    yield absolute("loss", loss, expected, scaled(tolerance.LOSS_64, expected))
    found = sum(float((got[name] * toward[name]).sum()) for name in toward)
    size = max(differences.natural_size(got, toward), abs(slope))
    yield relative("all gradients", found, slope, tolerance.DERIVATIVE_64, scale=size or 1.0)


def _own(model: Model, batch: Batch) -> Batch:
    """The batch with what the model itself says as its reference."""
    assert batch.pairs is not None, "only preferences have a reference"
    rows = [model.row_logprobs(*of) for of in zip(batch.tokens, batch.targets, strict=True)]
    return replace(batch, pairs=replace(batch.pairs, reference=np.stack(rows)))


def frozen(case: Case, sides: Sides) -> Iterator[Measure]:
    """With freeze_layers, the same gradients of the tensors that are left, and no others."""
    recipe = replace(case.recipe, freeze_layers=1)
    _, every = sides.subject.grads(case)
    _, some = sides.subject.learner(case, recipe=recipe).grads(case.batch)
    frozen_names = {n for n in every if n.startswith(("model.embed_", "model.layers.0."))}
    extra = len(set(some) ^ (set(every) - frozen_names))
    yield Measure(float(extra), tolerance.EXACT, "tensors with a gradient")
    for name in some:
        if vanishing(case, name) is None:
            yield relative(f"gradient of {name}", some[name], every[name], tolerance.GRADIENT_64)


def golden(case: Case, sides: Sides) -> Iterator[Measure]:
    """The committed vectors: logits, loss and, where the subject trains, every gradient."""
    stored = vectors.read(case.name)
    yield relative("logits", sides.subject.logits(case), stored.logits, tolerance.LOGITS_64)
    if sides.subject.trains:
        loss, grads = sides.subject.grads(case)
        yield absolute("loss", loss, stored.loss, scaled(tolerance.LOSS_64, stored.loss))
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

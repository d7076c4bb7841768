"""L2: the production kernels, in units of what float32 can do on this very input.

This level and L3 certify kernels, not meaning: an eps of 1e-6 for 1e-5, rope's base 10,001 or a
head in bfloat16 can hide inside bfloat16's noise. L1 is what finds those.
"""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import numpy as np

from hermes.interface import IGNORE, Model
from hermes.recipe import Preference
from hermes.spec import EmbeddingsSpec, FfnSpec, OutputSpec
from hermes_conformance.cases.case import RECIPE, Case
from hermes_conformance.cases.specs import ATTENTION, fields, model
from hermes_conformance.cases.weights import fresh, hot
from hermes_conformance.laws.cases import edges, objectives
from hermes_conformance.laws.gradients import vanishing
from hermes_conformance.laws.semantics import cut
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measure, absolute, identical, relative, rms
from hermes_conformance.measure.law import Law, Sides
from hermes_conformance.oracle.rounding_noise import Noise, divergence, log_softmax, noise

PROMPTS, PROMPT, GREEDY, LONG_GREEDY = 8, 4, 40, 256


def within(what, got, model_of: Noise, token_bound, element_bound) -> Iterator[Measure]:
    """Errors of (B, T, V) logits in sigmas: per token, and of the worst element."""
    apart = np.abs(got.astype(np.float64) - model_of.logits)
    apart = np.where(np.isfinite(apart), apart, np.inf)
    sigma = model_of.sigma
    floor = np.maximum(sigma, np.finfo(np.float64).tiny)
    tokens = np.sqrt(np.mean(np.square(apart), axis=-1)) / floor
    index = np.unravel_index(int(tokens.argmax()), tokens.shape)
    yield Measure(float(tokens[index]), token_bound, f"{what} of a token", got.shape, _ints(index))
    excess = np.maximum(apart - 8 * model_of.unit * np.abs(model_of.logits), 0) / floor[..., None]
    index = np.unravel_index(int(excess.argmax()), excess.shape)
    yield Measure(float(excess[index]), element_bound, what, got.shape, _ints(index))


def _ints(index) -> tuple[int, ...]:
    return tuple(int(i) for i in index)


def _kl(case: Case) -> tolerance.Bound:
    return tolerance.KL_32_FRESH if case.name.endswith("/fresh") else tolerance.KL_32_HOT


def fast(case: Case, sides: Sides) -> Iterator[Measure]:
    """Float32 by the fast table: per token, per element, and as distributions."""
    model_of = noise(sides.oracle, case, "float32")
    got = sides.subject.logits(case, "float32")
    yield from within("logits", got, model_of, tolerance.TOKEN_32, tolerance.ELEMENT_32)
    yield Measure(float(divergence(model_of.logits, got).max()), _kl(case), "KL of a token")


def exact(case: Case, sides: Sides) -> Iterator[Measure]:
    """Float32 by the exact table, which is the one that L1 certifies."""
    model_of = noise(sides.oracle, case, "float32")
    got = sides.subject.logits(case, "float32", exact=True)
    yield from within("logits", got, model_of, tolerance.TOKEN_32, tolerance.ELEMENT_32)


def peers(case: Case, sides: Sides) -> Iterator[Measure]:
    """Neither backend errs much more than the other."""
    truth = sides.oracle.logits(case)
    one, other = (rms(s.logits(case, "float32") - truth) for s in (sides.subject, sides.reference))
    for side, mine, theirs in (("subject", one, other), ("reference", other, one)):
        yield Measure(mine / theirs if theirs else 0.0, tolerance.PEER_RATIO, f"rmse of {side}")


def decoded(precision: str, token_bound: tolerance.Bound, element_bound: tolerance.Bound):
    """The cache in a format, as the full pass is judged in it."""

    def law(case: Case, sides: Sides) -> Iterator[Measure]:
        """Logits after each read of the cache: per token and per element."""
        model_of = noise(sides.oracle, case, precision)
        cuts = cut(case)
        found = sides.subject.decoded(case, cuts, precision)
        for end, got in zip((*cuts, case.T), found, strict=True):
            at = slice(end - 1, end)
            here = Noise(model_of.logits[:, at], model_of.sigma[:, at], model_of.kl, model_of.unit)
            what = f"logits after {end} tokens"
            yield from within(what, got[:, None], here, token_bound, element_bound)

    return law


def batched(case: Case, sides: Sides) -> Iterator[Measure]:
    """A row alone, and a second time, scores as in its batch."""
    model_of = noise(sides.oracle, case, "float32")
    built = sides.subject.model(case, "float32")
    segments = None if case.segments is None else case.segments[-1:]
    row = built.logits(case.tokens[-1:], segments)
    here = Noise(model_of.logits[-1:], model_of.sigma[-1:], model_of.kl, model_of.unit)
    yield from within("last row alone", row, here, tolerance.TOKEN_32, tolerance.ELEMENT_32)
    again = built.logits(case.tokens, case.segments)
    yield identical("run again", again, sides.subject.logits(case, "float32"), tolerance.EXACT)


def own_scores(case: Case, built: Model) -> list[np.ndarray]:
    """Each micro-batch's log p(target) by the model's own logits, in float64; 0 where IGNORE."""
    batch, found = case.batch, []
    for a, targets in enumerate(batch.targets):
        segments = None if batch.segments is None else batch.segments[a]
        scores = log_softmax(built.logits(batch.tokens[a], segments))
        at = np.where(targets == IGNORE, 0, targets)[..., None]
        chosen = np.take_along_axis(scores, at, axis=-1)[..., 0]
        found.append(np.where(targets == IGNORE, 0.0, chosen))
    return found


def own_loss(case: Case, built: Model, scores: list[np.ndarray]) -> Measure:
    """The loss is that of the model's own scores, reckoned in float32 at least."""
    expected = -sum(float(of.sum()) for of in scores) / case.batch.num_terms
    got = built.loss(case.batch)
    return relative("loss", got, expected, tolerance.LOSS_32, max(1.0, abs(expected)))


def logprobs(case: Case, sides: Sides) -> Iterator[Measure]:
    """What evaluation says of each target and of all, by the model's own float32 logits."""
    built = sides.subject.model(case, "float32")
    scores = own_scores(case, built)
    yield own_loss(case, built, scores)
    if case.packed:
        return  # log-probabilities are asked of whole rows
    for tokens, targets, expected in zip(
        case.batch.tokens, case.batch.targets, scores, strict=True
    ):
        size = np.maximum(1.0, np.abs(expected))
        got = built.logprobs(tokens, targets)
        yield absolute("logprobs", got / size, expected / size, tolerance.LOGPROB_32)


def reference(case: Case, sides: Sides) -> Iterator[Measure]:
    """What a model built as trained gives rows is what its learner gives: h is 0 in update 1."""
    given = case.tokens, case.batch.targets[0]
    got = sides.subject.model(case, "float32", as_trained=True).row_logprobs(*given)
    expected = sides.subject.learner(case, "float32").row_logprobs(*given)
    yield identical("row_logprobs", got, expected, tolerance.EXACT)


def gradients(case: Case, sides: Sides) -> Iterator[Measure]:
    """Gradients in float32, against the same backend's in float64."""
    loss, got = sides.subject.grads(case, "float32")
    true_loss, expected = sides.subject.grads(case)
    yield relative("loss", loss, true_loss, tolerance.LOSS_32, max(1.0, abs(true_loss)))
    norm, true_norm = (
        float(np.sqrt(sum(np.square(g, dtype=np.float64).sum() for g in found.values())))
        for found in (got, expected)
    )
    yield relative("norm of all gradients", norm, true_norm, tolerance.NORM_32)
    elements = sum(value.size for value in expected.values())
    for name, value in expected.items():
        if vanishing(case, name) is None:
            # Where few rows have a gradient, rounding is as large as theirs; where none has, as the
            # other tensors'.
            scale = max(rms(value), np.abs(value).max() / 10) or true_norm / np.sqrt(elements)
            what = f"gradient of {name}"
            yield relative(what, got[name], value, tolerance.GRADIENT_32, scale)


def greedy(case: Case, sides: Sides) -> Iterator[Measure]:
    """The likeliest continuation of several prompts, token by token."""
    prompts, expected = _greedy_fixture(case)
    decoder = sides.subject.model(case, "float32").decoder(PROMPTS, case.T)
    got, logits = [], decoder.advance(prompts)
    for step in range(expected.shape[1]):
        got.append(logits.argmax(axis=-1))
        if step + 1 < expected.shape[1]:
            logits = decoder.advance(expected[:, step : step + 1].astype(np.int32))
    chosen = np.stack(got, axis=1)
    yield identical("likeliest tokens", chosen, expected, tolerance.EXACT)


@cache
def _greedy_fixture(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """(prompts, continuations), drawn until every step's margin is wide enough for float32."""
    from hermes_numpy.backend import BACKEND

    oracle, found = BACKEND.build(case.spec, case.weights), []
    for number in range(20):
        words = case.draw(f"prompts {number}", PROMPTS * PROMPT, case.spec.vocab_size)
        prompts = words.reshape(PROMPTS, PROMPT).astype(np.int32)
        decoder = oracle.decoder(PROMPTS, case.T)
        logits, chosen, good = decoder.advance(prompts), [], np.full(PROMPTS, True)
        for step in range(case.T - PROMPT):
            best = np.sort(logits, axis=-1)[:, -2:]
            good &= (best[:, 1] - best[:, 0]) / rms(logits) >= tolerance.MARGIN.limit
            chosen.append(logits.argmax(axis=-1))
            if step + 1 < case.T - PROMPT:
                logits = decoder.advance(chosen[-1][:, None].astype(np.int32))
        texts = np.stack(chosen, axis=1)
        found += [(prompts[row], texts[row]) for row in np.flatnonzero(good)]
        if len(found) >= PROMPTS:
            return tuple(np.stack(part) for part in zip(*found[:PROMPTS], strict=True))
    raise AssertionError(f"{case.name}: too few prompts whose margins are wide enough")


KERNELS = (
    "default",
    "attention.",
    "ffn.activation=",
    "ffn.bias=true",
    "block.norm=",
    "model.pattern",
    "model.num_layers",
    "embeddings.",
    "output.",
)
QUIET = (
    "default",
    "attention.position_encoding=learned",
    "block.norm=layernorm/pre",
    "ffn.bias=true",
)


@cache
def cases(long: bool = False) -> tuple[Case, ...]:
    """Of L2: the fields that have kernels of their own, hot; a few fresh; texts to go on with."""
    named = [
        (name, spec)
        for name, spec in fields().items()
        if name.startswith(KERNELS) and (long or name.endswith("/pre") or "norm=" not in name)
    ]
    made = [Case(f"{name}/hot", s, hot, packed=n % 3 == 2) for n, (name, s) in enumerate(named)]
    made += [Case(f"{name}/fresh", fields()[name], fresh) for name in QUIET]
    made += [case for case in edges() if not case.name.startswith("edge.saturated")]
    length = PROMPT + (LONG_GREEDY if long else GREEDY)
    for name, spec in (("rope", model(max_seq_len=300)), ("alibi", _alibi())):
        made.append(Case(f"greedy.{name}/hot", spec, hot, T=length))
    # One row: read whole it has more rows of products than any other case, and read on only one.
    biased = replace(ATTENTION, bias="all")
    long_row = model(biased, FfnSpec(40, bias=True), output=OutputSpec(bias=True), max_seq_len=160)
    made.append(Case("decoding.one row/hot", long_row, hot, A=1, B=1, T=140))
    made += [case for case in objectives() if case.name.startswith("preference.")]
    # So many tokens' logits exist at once on no CPU: a loss that slices them has several slices,
    # and so has a pair. Its rows' sums are hundreds of nats, known to 1e-5 and better: a greater
    # beta would make of that the slopes' error.
    large = model(vocab_size=300_000, embeddings=EmbeddingsSpec(tie_weights=True))
    pairs = replace(RECIPE, objective="preference", preference=Preference(beta=0.05))
    made.append(Case("slices.next token/hot", large, hot, A=1, B=2, T=30))
    made.append(Case("slices.pairs/hot", large, hot, A=1, B=4, T=30, recipe=pairs))
    return tuple(made)


def _alibi():
    attention = fields()["attention.position_encoding=alibi"].layers[0].attention
    return model(attention, max_seq_len=300)


def _law(name, says, check, bound, applies, needs="forward"):
    return Law("L2", name, says, bound, check, applies, needs, "float32")


def _scores(case: Case) -> bool:
    return not case.name.startswith(("greedy.", "preference.", "slices."))


def reads_on(case: Case) -> bool:
    """Whether a cache's logits are those of the case's full pass."""
    return case.decodes and not case.packed


def plain(case: Case) -> bool:
    """Cases whose logits are judged, at ordinary lengths and sizes."""
    return _scores(case) and not case.name.startswith("edge.")


LAWS = (
    _law("logits", "float32 errs as float32 does", fast, tolerance.TOKEN_32, _scores),
    _law("exact", "so does the exact table", exact, tolerance.TOKEN_32, plain),
    _law("peers", "both err alike", peers, tolerance.PEER_RATIO, plain, "peer"),
    _law(
        "decoding",
        "so does the cache",
        decoded("float32", tolerance.TOKEN_32, tolerance.ELEMENT_32),
        tolerance.TOKEN_32,
        lambda case: _scores(case) and reads_on(case),
    ),
    _law("batching", "so does a row alone", batched, tolerance.TOKEN_32, plain),
    _law(
        "logprobs",
        "log-probabilities and losses are the scores'",
        logprobs,
        tolerance.LOGPROB_32,
        lambda case: case.name.startswith(("default/", "output.", "embeddings.tie", "slices.next")),
    ),
    _law(
        "reference",
        "a policy's first reference is itself",
        reference,
        tolerance.EXACT,
        lambda case: case.batch.pairs is not None,
        "learner",
    ),
    _law(
        "gradients",
        "float32 gradients stay beside float64",
        gradients,
        tolerance.GRADIENT_32,
        lambda case: not case.name.startswith(("edge.", "greedy.")),
        "learner",
    ),
    _law(
        "greedy",
        "the likeliest texts are the same",
        greedy,
        tolerance.EXACT,
        lambda case: case.name.startswith("greedy."),
    ),
)

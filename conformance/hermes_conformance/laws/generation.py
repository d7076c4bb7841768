"""Laws of L2 and L3 about generation: KV caches in short formats, and texts."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

import numpy as np

from hermes.inference.decoding import generate_choices
from hermes.inference.engine import Engine
from hermes.inference.request import Generation, Request
from hermes.inference.sampler import Choice
from hermes.inference.sampling import GREEDY
from hermes.interface import PREFILL_CHUNK
from hermes_conformance.cases import decoding_specs
from hermes_conformance.cases.case import Case
from hermes_conformance.laws.semantics import choose_cuts
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import (
    Measurement,
    compare_absolute,
    compare_bits,
    compare_relative,
    compare_values,
    rms,
)
from hermes_conformance.measure.law import Check, Law, match_names
from hermes_conformance.measure.subject import Backends
from hermes_conformance.oracle.rounding_noise import (
    LogitNoise,
    compare_with_noise,
    estimate_logit_noise,
    log_softmax,
)
from hermes_numpy.backend import BACKEND as ORACLE

PROMPTS, PROMPT_LENGTH = 8, 4
GREEDY_LENGTH, LONG_GREEDY_LENGTH = 40, 256
ENGINE_ROWS, ENGINE_CHUNK = 3, 5
BRANCH, BRANCH_WORDS = 9, 6  # tokens that a text begins with as another, and that are its own
LONG_PROMPTS_TEXT = 12  # tokens that follow a long prompt
LEAST_LOGITS = 1e-3  # smaller ones nearly cancel; those of fresh weights are mostly about 0.1


def can_decode(case: Case) -> bool:
    """Whether a KV cache gives the logits of the case's full pass."""
    return case.can_decode and not case.packed


def make_decoding_check(
    precision: str, token_bound: tolerance.Bound, element_bound: tolerance.Bound
) -> Check:
    """A check of the KV cache in a format, with the bounds of a full pass in it."""

    def check(case: Case, backends: Backends) -> Iterator[Measurement]:
        noise = estimate_logit_noise(backends.oracle, case, precision)
        cuts = choose_cuts(case)
        pieces = backends.subject.decode(case, cuts, precision)
        for end, got in zip((*cuts, case.T), pieces, strict=True):
            at = slice(end - 1, end)
            here = LogitNoise(noise.logits[:, at], noise.sigma[:, at], noise.kl, noise.unit)
            what = f"logits after {end} tokens"
            yield from compare_with_noise(what, got[:, None], here, token_bound, element_bound)

    return check


def steps(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Logits read token by token are those of one pass of the same model."""
    model = backends.subject.build_model(case, "float32")
    whole = model.logits(case.tokens)
    scale = max(rms(whole), LEAST_LOGITS)
    pieces = backends.subject.decode(case, tuple(range(1, case.T)), "float32")
    for end, got in enumerate(pieces, 1):
        what = f"logits after {end} tokens"
        yield compare_relative(what, got, whole[:, end - 1], tolerance.STEP_32, scale)


def greedy(case: Case, backends: Backends) -> Iterator[Measurement]:
    """The most likely tokens after several prompts are the oracle's, one after another."""
    tokens = _draw_texts(case).tokens
    prompts, expected = tokens[:, :PROMPT_LENGTH], tokens[:, PROMPT_LENGTH:]
    decoder = backends.subject.build_model(case, "float32").decoder(PROMPTS, case.T)
    chosen, logits = [], decoder.advance(prompts)
    for step in range(expected.shape[1]):
        chosen.append(logits.argmax(axis=-1))
        if step + 1 < expected.shape[1]:
            logits = decoder.advance(expected[:, step : step + 1])
    got = np.stack(chosen, axis=1).astype(expected.dtype)
    yield compare_bits("likeliest tokens", got, expected, tolerance.EXACT)


def texts(case: Case, backends: Backends) -> Iterator[Measurement]:
    """Texts of an engine are the oracle's.

    Prompts are read in pieces, rows come and go, and some begin with what others have read.
    """
    model = backends.subject.build_model(case, "float32")
    engine = Engine(model, rows=ENGINE_ROWS, capacity=case.T, prefill_chunk=ENGINE_CHUNK)
    first, branches = _draw_texts(case), _draw_branches(case)
    asked = []
    for number in range(0, PROMPTS, 2):
        for name, written, length in (
            ("text", first, PROMPT_LENGTH + 3 * number),
            ("branch", branches, branches.length),
            ("text", first, case.T // 2 + number),
        ):
            if number < len(written.tokens):
                generation = engine.submit(written.make_request(number, length))
                asked.append((f"{name} {number}", written, number, length, generation))
    engine.run()
    for what, written, number, length, generation in asked:
        yield from written.compare(f"{what} after {length} tokens", number, length, generation)


def long_prompts(case: Case, backends: Backends) -> Iterator[Measurement]:
    """What follows a prompt of several reads, alone and of an engine, is what the oracle says."""
    written = _draw_texts(case, 1, case.T - LONG_PROMPTS_TEXT)
    request = written.make_request(0, written.length)
    model = backends.subject.build_model(case, "float32")
    choices = generate_choices(
        model, request.prompt, sampling=GREEDY, max_tokens=request.max_tokens, logprobs=0
    )
    yield from written.compare("text", 0, written.length, list(choices))
    engine = Engine(model, rows=1, prefill_chunk=PREFILL_CHUNK)
    generation = engine.submit(request)
    engine.run()
    yield from written.compare("text of an engine", 0, written.length, generation)


@dataclass(frozen=True)
class _Texts:
    """Prompts of `length` tokens, and what the oracle continues them with, of which each is far
    more likely than any other. tokens: (N, T). logprobs: of those that follow, (N, T - length).
    """

    tokens: np.ndarray
    logprobs: np.ndarray
    length: int

    def make_request(self, number: int, length: int) -> Request:
        """A request for what follows the first `length` tokens of a text."""
        tokens = tuple(self.tokens[number].tolist())
        return Request(tokens[:length], len(tokens) - length, GREEDY, logprobs=0)

    def compare(
        self, what: str, number: int, length: int, found: Generation | list[Choice]
    ) -> Iterator[Measurement]:
        """Compare what followed the first `length` tokens of a text."""
        choices = found if isinstance(found, list) else found.choices
        if isinstance(found, Generation) and found.error is not None:
            raise found.error
        got = tuple(choice.token for choice in choices)
        expected = tuple(self.tokens[number, length:].tolist())
        yield compare_values(what, got, expected, tolerance.EXACT)
        if got == expected:
            yield compare_absolute(
                f"{what}: log-probabilities",
                np.array([choice.logprob for choice in choices], np.float64),
                self.logprobs[number, length - self.length :],
                tolerance.TEXT_32,
            )


def _write(case: Case, prompts: np.ndarray) -> _Texts:
    """The oracle's greedy texts after prompts, without those of a margin too thin for float32."""
    count, length = prompts.shape
    decoder = ORACLE.build(case.spec, case.weights).decoder(count, case.T)
    logits, wide = decoder.advance(prompts), np.full(count, True)
    tokens, logprobs = [prompts], []
    for end in range(length, case.T):
        best = np.sort(logits, axis=-1)[:, -2:]
        wide &= (best[:, 1] - best[:, 0]) / rms(logits) >= tolerance.GREEDY_MARGIN.limit
        tokens.append(logits.argmax(axis=-1)[:, None].astype(np.int32))
        logprobs.append(log_softmax(logits).max(axis=-1))
        if end + 1 < case.T:
            logits = decoder.advance(tokens[-1])
    return _Texts(np.concatenate(tokens, axis=1)[wide], np.stack(logprobs, axis=1)[wide], length)


@cache
def _draw_texts(case: Case, count: int = PROMPTS, length: int = PROMPT_LENGTH) -> _Texts:
    """So many texts after random prompts."""
    found: list[_Texts] = []
    for number in range(20):
        words = case.draw_integers(f"prompts {number}", count * length, case.spec.vocab_size)
        found.append(_write(case, words.reshape(count, length).astype(np.int32)))
        if sum(len(one.tokens) for one in found) >= count:
            tokens, logprobs = (
                np.concatenate(parts)[:count]
                for parts in zip(*((one.tokens, one.logprobs) for one in found), strict=True)
            )
            return _Texts(tokens, logprobs, length)
    raise AssertionError(f"{case.name}: too few prompts whose margins are wide enough")


@cache
def _draw_branches(case: Case) -> _Texts:
    """Texts that begin as those of `_draw_texts` do, and end with other tokens."""
    begun = _draw_texts(case).tokens[:, :BRANCH]
    words = case.draw_integers("branches", len(begun) * BRANCH_WORDS, case.spec.vocab_size)
    own = words.reshape(len(begun), BRANCH_WORDS).astype(np.int32)
    return _write(case, np.concatenate([begun, own], axis=1))


def make_cases(long: bool = False) -> tuple[Case, ...]:
    """The cases of these laws, and those of decoding that all laws of L2 judge."""
    length = PROMPT_LENGTH + (LONG_GREEDY_LENGTH if long else GREEDY_LENGTH)
    return (
        *decoding_specs.make_text_cases(length),
        *decoding_specs.make_prompt_cases(),
        *decoding_specs.make_step_cases(),
        *decoding_specs.make_ring_cases(),
        *decoding_specs.make_company_cases(),
        *decoding_specs.make_tile_cases(),
        *decoding_specs.make_choice_cases(),
    )


def _make_law(name: str, statement: str, check: Check, cases: str) -> Law:
    bound = tolerance.STEP_32 if name == "steps" else tolerance.EXACT
    applies_to = match_names(cases)
    return Law(
        "L2",
        name,
        statement,
        bound,
        check,
        lambda case: applies_to(case) and can_decode(case),
        precision="float32",
    )


LAWS_32 = (
    _make_law("steps", "token by token, logits are those of one pass", steps, "steps."),
    _make_law("greedy", "greedy texts are the same", greedy, "greedy."),
    _make_law("texts", "greedy texts are the same beside others", texts, "greedy."),
    _make_law("prompts", "a prompt read in pieces is continued alike", long_prompts, "prompt."),
)

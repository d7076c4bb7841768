"""Laws of L2 and L3 about generation: KV caches in short formats, and greedy texts."""

from collections.abc import Iterator
from functools import cache

import numpy as np

from hermes_conformance.cases.case import Case
from hermes_conformance.laws.semantics import choose_cuts
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import Measurement, compare_bits, rms
from hermes_conformance.measure.law import Check
from hermes_conformance.measure.subject import Backends
from hermes_conformance.oracle.rounding_noise import (
    LogitNoise,
    compare_with_noise,
    estimate_logit_noise,
)
from hermes_numpy.backend import BACKEND as ORACLE

PROMPTS, PROMPT_LENGTH = 8, 4


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


def greedy(case: Case, backends: Backends) -> Iterator[Measurement]:
    """The most likely tokens after several prompts are the oracle's, one after another."""
    prompts, expected = _draw_greedy_texts(case)
    decoder = backends.subject.build_model(case, "float32").decoder(PROMPTS, case.T)
    chosen, logits = [], decoder.advance(prompts)
    for step in range(expected.shape[1]):
        chosen.append(logits.argmax(axis=-1))
        if step + 1 < expected.shape[1]:
            logits = decoder.advance(expected[:, step : step + 1].astype(np.int32))
    got = np.stack(chosen, axis=1)
    yield compare_bits("likeliest tokens", got, expected, tolerance.EXACT)


@cache
def _draw_greedy_texts(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Prompts and their greedy continuations, drawn until each margin is too wide for float32.

    (PROMPTS, PROMPT_LENGTH), (PROMPTS, T - PROMPT_LENGTH)
    """
    oracle = ORACLE.build(case.spec, case.weights)
    texts: list[tuple[np.ndarray, np.ndarray]] = []
    for number in range(20):
        words = case.draw_integers(
            f"prompts {number}", PROMPTS * PROMPT_LENGTH, case.spec.vocab_size
        )
        prompts = words.reshape(PROMPTS, PROMPT_LENGTH).astype(np.int32)
        decoder = oracle.decoder(PROMPTS, case.T)
        logits, chosen, wide = decoder.advance(prompts), [], np.full(PROMPTS, True)
        for step in range(case.T - PROMPT_LENGTH):
            best = np.sort(logits, axis=-1)[:, -2:]
            wide &= (best[:, 1] - best[:, 0]) / rms(logits) >= tolerance.GREEDY_MARGIN.limit
            chosen.append(logits.argmax(axis=-1))
            if step + 1 < case.T - PROMPT_LENGTH:
                logits = decoder.advance(chosen[-1][:, None].astype(np.int32))
        continuations = np.stack(chosen, axis=1)
        texts += [(prompts[row], continuations[row]) for row in np.flatnonzero(wide)]
        if len(texts) >= PROMPTS:
            first = texts[:PROMPTS]
            return np.stack([text[0] for text in first]), np.stack([text[1] for text in first])
    raise AssertionError(f"{case.name}: too few prompts whose margins are wide enough")

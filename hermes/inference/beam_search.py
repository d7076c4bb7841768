"""Beam search: the texts that a model finds most probable, as far as a few beams reach."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hermes.arguments import convert_value
from hermes.errors import HermesError, NonFinite
from hermes.inference.decoding import check_lengths, choose_prefill_chunk
from hermes.inference.filters import select_largest
from hermes.inference.row_decoding import make_row_decoder
from hermes.interface import Model, RowDecoder

__all__ = ["Beam", "search_beams"]

MOST_PENALTY = 10.0  # beyond which a length to its power is soon no number


@dataclass(frozen=True)
class Beam:
    """A text that was found. logprob: of all its tokens together, in nats, the ending included.

    score: logprob divided by the number of those tokens to the power of the length penalty, by
    which texts are ranked. finish_reason: 'stop' or 'length'.
    """

    tokens: tuple[int, ...]
    logprob: float
    score: float
    finish_reason: str


def search_beams(
    model: Model,
    prompt: Sequence[int],
    *,
    num_beams: int,
    max_tokens: int,
    stop: Collection[int] = (),
    vocab_size: int | None = None,
    length_penalty: float = 1.0,
) -> list[Beam]:
    """Find up to num_beams texts that follow a prompt, the best first.

    Of the continuations of all beams the num_beams most probable ones that do not end are kept; one
    that ends, and is among the num_beams most probable ones, is found. The search ends when no
    beam's score, as it is, is better than the worst of num_beams texts found, or at max_tokens or
    the end of the context, where what the beams have counts as found. That is what transformers
    does with early_stopping false. stop, vocab_size: as in `generate_tokens`. Raises HermesError.
    """
    num_beams = convert_value("num_beams", num_beams, int)
    max_tokens = convert_value("max_tokens", max_tokens, int)
    length_penalty = convert_value("length_penalty", length_penalty, float)
    if num_beams < 1:
        raise HermesError(f"num_beams must be at least 1, got {num_beams}")
    if not abs(length_penalty) <= MOST_PENALTY:  # which NaN is not either
        raise HermesError(
            f"length_penalty must be from {-MOST_PENALTY:g} to {MOST_PENALTY:g}, got "
            f"{length_penalty:g}"
        )
    longest = model.spec.max_seq_len
    tokens = check_lengths(longest, prompt, max_tokens, "stop")
    count = min(max_tokens, longest - len(tokens) + 1)
    capacity = len(tokens) + count - 1
    decoder = make_row_decoder(model, 2 * num_beams, capacity)
    rows = _Rows(decoder, tokens, capacity, choose_prefill_chunk(model))
    logprobs = _normalize(rows.begin()[:, :vocab_size])  # (1, V)
    texts: list[tuple[int, ...]] = [()]
    sums = np.zeros(1)
    found: list[Beam] = []
    for length in range(1, count + 1):
        chosen: list[tuple[int, int, float]] = []
        for rank, (parent, token, total) in enumerate(
            _find_best(sums[:, None] + logprobs, 2 * num_beams)
        ):
            if token not in stop:
                chosen.append((parent, token, total))
            elif rank < num_beams:
                score = total / length**length_penalty
                found.append(Beam(texts[parent], total, score, "stop"))
        chosen = chosen[:num_beams]
        found = sorted(found, key=lambda beam: -beam.score)[:num_beams]
        texts = [(*texts[parent], token) for parent, token, _ in chosen]
        sums = np.array([total for _, _, total in chosen])
        if not chosen or length == count:
            break
        reachable = sums.max() / length**length_penalty
        if len(found) == num_beams and found[-1].score >= reachable:
            return found
        steps = [(parent, token) for parent, token, _ in chosen]
        logprobs = _normalize(rows.advance(steps)[:, :vocab_size])
    for text, total in zip(texts, sums.tolist(), strict=True):
        found.append(Beam(text, total, total / len(text) ** length_penalty, "length"))
    return sorted(found, key=lambda beam: -beam.score)[:num_beams]


def _find_best(totals: NDArray[np.float64], count: int) -> list[tuple[int, int, float]]:
    """The most probable continuations, the best first: beam, token, sum. (B, V)"""
    flat = totals.ravel()
    best = select_largest(flat, count)
    best = best[np.argsort(-flat[best], kind="stable")]
    best = best[flat[best] > -np.inf]
    return [(*divmod(int(at), totals.shape[1]), float(flat[at])) for at in best]


def _normalize(logits: NDArray[np.floating]) -> NDArray[np.float64]:
    """Log-probabilities. (B, V) -> (B, V)"""
    x = logits.astype(np.float64)
    x -= x.max(axis=1, keepdims=True)
    if np.isnan(x).any():
        raise NonFinite("the model's logits are not numbers; its weights may be damaged")
    normalized: NDArray[np.float64] = x - np.log(np.exp(x).sum(axis=1, keepdims=True))
    return normalized


class _Rows:
    """The beams in a cache of twice as many rows: a beam with several children is copied."""

    def __init__(self, decoder: RowDecoder, prompt: Sequence[int], capacity: int, chunk: int):
        self._decoder, self._chunk = decoder, chunk
        self._capacity = capacity
        self._texts = {0: list(prompt)}  # of each row that is in use
        self._beams = [0]  # the row of each beam

    def begin(self) -> NDArray[np.floating]:
        """Read the prompt. -> (1, V)"""
        self._decoder.open_row(0, self._capacity)
        prompt = np.array([self._texts[0]])
        for start in range(0, prompt.size, self._chunk):
            part = prompt[:, start : start + self._chunk]
            logits = self._decoder.advance([0], part, [part.size])
        return logits

    def advance(self, steps: Sequence[tuple[int, int]]) -> NDArray[np.floating]:
        """Make each of (beam, token) a beam, and read the tokens. -> (B, V)"""
        parents = [self._beams[parent] for parent, _ in steps]
        size = max(max(self._texts) + 1, *parents, 0) + len(steps)
        free = [row for row in range(size) if row not in parents]
        beams: list[int] = []
        for parent in parents:
            # The first child goes on in its parent's row, the others in copies of it.
            beams.append(free.pop(0) if parent in beams else parent)
        old = self._texts
        kept = {}
        for row, parent in zip(beams, parents, strict=True):
            kept[row] = len(old[parent])
            if row != parent:
                kept[row] = self._decoder.open_row(
                    row, self._capacity, source=parent, length=len(old[parent])
                )
        self._texts = {
            row: [*old[parent], token]
            for row, parent, (_, token) in zip(beams, parents, steps, strict=True)
        }
        self._beams = beams
        # Where a cache could not be copied, all is read again.
        counts = [len(self._texts[row]) - kept[row] for row in beams]
        tokens = np.zeros((len(beams), max(counts)), np.int32)
        for b, row in enumerate(beams):
            tokens[b, : counts[b]] = self._texts[row][kept[row] :]
        return self._decoder.advance(beams, tokens, counts)

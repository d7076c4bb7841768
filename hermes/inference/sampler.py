"""The choice of one text's tokens, one after another, from the logits of a model.

Token t of completion c is sampled with number t of a stream of uniform numbers named by c, so
randomness depends on (seed, completion, position) alone: neither on the backend, nor on how a text
is split over calls, nor on what else is generated at the same time.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hermes.errors import HermesError, NonFinite
from hermes.inference.filters import draw_candidate, filter_tokens, select_largest
from hermes.inference.grammar import Grammar
from hermes.inference.sampling import Sampling
from hermes.inference.token_history import TokenHistory
from hermes.interface import TokenChoice
from hermes.numerics.randomness import check_seed, draw_uniforms

__all__ = ["MAX_LOGPROBS", "Choice", "Sampler", "rank_logprobs"]

DRAWN_AT_ONCE = 64
NOT_NUMBERS = "the model's logits are not numbers; its weights may be damaged"
MAX_LOGPROBS = 100


@dataclass(frozen=True)
class Choice:
    """A token that was chosen.

    logprob: its log-probability in nats under the model itself, before any setting of Sampling;
    top: the most probable ids with theirs, the greatest first. None where not asked for.
    """

    token: int
    logprob: float | None = None
    top: tuple[tuple[int, float], ...] | None = None


class Sampler:
    """Chooses the tokens of one text.

    prompt: all tokens before the text. endings: ids that end it, for min_tokens and XTC.
    vocab_size: only ids below it are chosen (None: all). logprobs: how many most probable tokens
    come with each choice, None for no log-probabilities. grammar: what the text must follow.
    """

    def __init__(
        self,
        sampling: Sampling,
        prompt: Sequence[int],
        *,
        seed: int = 0,
        completion: int = 0,
        endings: Collection[int] = (),
        vocab_size: int | None = None,
        logprobs: int | None = None,
        grammar: Grammar | None = None,
    ):
        if logprobs is not None and not 0 <= logprobs <= MAX_LOGPROBS:
            raise HermesError(f"logprobs must be from 0 to {MAX_LOGPROBS}, got {logprobs}")
        check_seed(seed)
        last = max(sampling.logit_bias, default=0)
        if vocab_size is not None and last >= vocab_size:
            raise HermesError(
                f"logit_bias must be of ids below the {vocab_size:,} of the tokens, got {last}"
            )
        self._sampling, self._seed, self._completion = sampling, seed, completion
        self._endings = tuple(endings)
        self._vocab_size, self._logprobs = vocab_size, logprobs
        self._matcher = None if grammar is None else grammar.start()
        self._history = TokenHistory(sampling, prompt)
        self._position, self._made = len(prompt), 0
        self._drawn: dict[str, tuple[int, NDArray[np.float64]]] = {}

    @property
    def is_complete(self) -> bool:
        """Whether the text is all that its grammar allows."""
        return self._matcher is not None and self._matcher.is_complete

    def describe_choice(self) -> TokenChoice | None:
        """The next choice, where a device can make it; None where it needs more than logits.

        What has been said so far, a grammar, log-probabilities and the filters that a device has
        not are the host's.
        """
        s = self._sampling
        needs_host = (
            self._history.changes_logits
            or self._matcher is not None
            or self._logprobs is not None
            or self._made < s.min_tokens
            or (s.temperature > 0 and (s.typical_p < 1 or s.xtc_probability > 0))
        )
        if needs_host:
            return None
        return TokenChoice(s.temperature, s.top_k, s.top_p, s.min_p)

    def limit_vocabulary(self, size: int) -> int:
        """How many of the first ids of a vocabulary may be chosen."""
        return size if self._vocab_size is None else min(self._vocab_size, size)

    def draw_uniform(self, ahead: int = 0) -> float:
        """The uniform number of the next choice, or of one so many choices behind it."""
        return self._draw("sampling", ahead)

    def iterate_uniforms(self) -> Iterator[float]:
        """Those of the next choices, whether they are made or not."""
        start = self._position
        while True:
            stream = f"sampling/{self._completion}"
            yield from draw_uniforms(self._seed, stream, DRAWN_AT_ONCE, start=start).tolist()
            start += DRAWN_AT_ONCE

    def take(self, token: int) -> Choice:
        """Remember a token that a device chose as `describe_choice` says. Raises NonFinite."""
        if token < 0:
            raise NonFinite(NOT_NUMBERS)
        self._history.append(token)
        self._position += 1
        self._made += 1
        return Choice(token)

    def choose(self, logits: NDArray[np.floating]) -> Choice:
        """Choose the token that follows, and remember it as part of the text. (V,)

        Raises as `filters.filter_tokens`.
        """
        row = logits[: self._vocab_size]
        x = row.astype(np.float64)
        if np.isnan(x.max()):
            raise NonFinite(NOT_NUMBERS)
        if self._matcher is not None:
            self._matcher.mask(x, self._endings)
        if self._history.changes_logits:
            self._history.adjust(x)
        if self._made < self._sampling.min_tokens:
            x[[token for token in self._endings if token < len(x)]] = -np.inf
        xtc = self._draw("xtc") if self._sampling.xtc_probability > 0 else None
        kept = filter_tokens(x, self._sampling, xtc, self._endings)
        one = len(kept.ids) == 1
        token = int(kept.ids[0]) if one else draw_candidate(kept, self._draw("sampling"))
        self._history.append(token)
        if self._matcher is not None and token not in self._endings:
            self._matcher.append(token)
        self._position += 1
        self._made += 1
        if self._logprobs is None:
            return Choice(token)
        return Choice(token, *rank_logprobs(row, token, self._logprobs))

    def _draw(self, purpose: str, ahead: int = 0) -> float:
        """The uniform number of this position, or of one so far ahead."""
        start, numbers = self._drawn.get(purpose, (0, np.empty(0)))
        position = self._position + ahead
        if not start <= position < start + len(numbers):
            start = position
            stream = f"{purpose}/{self._completion}"
            numbers = draw_uniforms(self._seed, stream, DRAWN_AT_ONCE, start=start)
            self._drawn[purpose] = start, numbers
        return float(numbers[position - start])


def rank_logprobs(
    logits: NDArray[np.floating], token: int, count: int
) -> tuple[float, tuple[tuple[int, float], ...]]:
    """A token's log-probability, and the `count` most probable ids with theirs. (V,)"""
    x = logits.astype(np.float64)
    top = x.max()
    log_sum = float(top + np.log(np.exp(x - top).sum()))
    best = select_largest(x, count) if count else np.empty(0, np.intp)
    best = best[np.argsort(-x[best], kind="stable")]
    return float(x[token]) - log_sum, tuple((int(i), float(x[i]) - log_sum) for i in best)

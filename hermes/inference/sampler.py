"""The choice of one text's tokens, one after another, from the logits of a model.

Token t of completion c is sampled with number t of a stream of uniform numbers named by c, so
randomness depends on (seed, completion, position) alone: neither on the backend, nor on how a text
is split over calls, nor on what else is generated at the same time.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hermes.errors import HermesError, NonFinite
from hermes.inference.filters import draw_candidate, filter_tokens, select_largest
from hermes.inference.grammar import Grammar
from hermes.inference.sampling import Sampling
from hermes.inference.token_history import TokenHistory
from hermes.numerics.randomness import draw_uniforms

__all__ = ["MAX_LOGPROBS", "Choice", "Sampler", "rank_logprobs"]

DRAWN_AT_ONCE = 64
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

    def choose(self, logits: NDArray[np.floating]) -> Choice:
        """Choose the token that follows, and remember it as part of the text. (V,)

        Raises as `filters.filter_tokens`.
        """
        row = logits[: self._vocab_size]
        x = row.astype(np.float64)
        if np.isnan(x.max()):
            raise NonFinite("the model's logits are not numbers; its weights may be damaged")
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

    def _draw(self, purpose: str) -> float:
        """The uniform number of this position."""
        start, numbers = self._drawn.get(purpose, (0, np.empty(0)))
        if not start <= self._position < start + len(numbers):
            start = self._position
            stream = f"{purpose}/{self._completion}"
            numbers = draw_uniforms(self._seed, stream, DRAWN_AT_ONCE, start=start)
            self._drawn[purpose] = start, numbers
        return float(numbers[self._position - start])


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

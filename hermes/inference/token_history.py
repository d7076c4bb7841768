"""What the tokens so far do to the next logits: penalties, repetitions, banned sequences.

Each step costs as many operations as the text has different tokens, or tokens for DRY, and never
as many as the vocabulary has.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hermes.inference.sampling import Sampling

__all__ = ["TokenHistory"]

Floats = NDArray[np.float64]


class _GrowingIds:
    """Different ids in the order in which they came, and how often each did."""

    def __init__(self) -> None:
        self._place: dict[int, int] = {}
        self._ids = np.empty(16, np.intp)
        self._counts = np.zeros(16, np.float64)

    def add(self, token: int) -> None:
        """Count a token."""
        place = self._place.setdefault(token, len(self._place))
        if place == len(self._ids):
            self._ids = np.concatenate([self._ids, self._ids])
            self._counts = np.concatenate([self._counts, np.zeros(len(self._counts))])
        self._ids[place] = token
        self._counts[place] += 1

    @property
    def ids(self) -> NDArray[np.intp]:
        """The different ids. (N,)"""
        return self._ids[: len(self._place)]

    @property
    def counts(self) -> Floats:
        """How often each came. (N,)"""
        return self._counts[: len(self._place)]


class TokenHistory:
    """The tokens of a prompt and of the text behind it, as far as sampling needs to know them."""

    def __init__(self, sampling: Sampling, prompt: Sequence[int]):
        self._sampling = sampling
        self._all, self._text = _GrowingIds(), _GrowingIds()
        self._tokens: list[int] = []
        self._ngrams: dict[tuple[int, ...], set[int]] = {}
        self._dry = _Repetitions(sampling) if sampling.dry_multiplier > 0 else None
        self._bias = (
            np.array(list(sampling.logit_bias), np.intp),
            np.array(list(sampling.logit_bias.values()), np.float64),
        )
        for token in prompt:
            self._remember(token)

    @property
    def changes_logits(self) -> bool:
        """Whether `adjust` does anything."""
        s = self._sampling
        penalties = s.presence_penalty or s.frequency_penalty or s.repetition_penalty != 1
        return bool(penalties or s.logit_bias or self._dry or s.no_repeat_ngram or s.banned)

    def append(self, token: int) -> None:
        """Add a token of the text."""
        self._text.add(token)
        self._remember(token)

    def _remember(self, token: int) -> None:
        self._all.add(token)
        self._tokens.append(token)
        n = self._sampling.no_repeat_ngram
        if n and len(self._tokens) >= n:
            before = tuple(self._tokens[len(self._tokens) - n : -1])
            self._ngrams.setdefault(before, set()).add(token)
        if self._dry is not None:
            self._dry.append(token)

    def adjust(self, x: Floats) -> None:
        """Change the next token's logits in place: steps 1 to 6 of `Sampling`. (V,)

        Ids beyond the vocabulary, which a prompt may have, are passed over.
        """
        s, size = self._sampling, len(x)
        if s.logit_bias:
            ids, values = self._bias
            x[ids[ids < size]] += values[ids < size]
        if s.repetition_penalty != 1:
            ids = self._all.ids[self._all.ids < size]
            found = x[ids]
            x[ids] = np.where(found < 0, found * s.repetition_penalty, found / s.repetition_penalty)
        if s.presence_penalty or s.frequency_penalty:
            ids, counts = self._text.ids, self._text.counts
            x[ids] -= s.frequency_penalty * counts + s.presence_penalty
        if self._dry is not None:
            ids, penalties = self._dry.find_penalties()
            x[ids[ids < size]] -= penalties[ids < size]
        out = self._find_repeating()
        for sequence in s.banned:
            before = list(sequence[:-1])
            if not before or self._tokens[-len(before) :] == before:
                out.add(sequence[-1])
        x[[token for token in out if token < size]] = -np.inf

    def _find_repeating(self) -> set[int]:
        """The tokens that would repeat an n-gram."""
        n = self._sampling.no_repeat_ngram
        if not n or len(self._tokens) < n - 1:
            return set()
        return set(self._ngrams.get(tuple(self._tokens[len(self._tokens) - n + 1 :]), ()))


class _Repetitions:
    """For each place of the text, how many tokens up to it also end the text (DRY)."""

    def __init__(self, sampling: Sampling):
        self._sampling = sampling
        self._breakers = frozenset(sampling.dry_breakers)
        self._tokens = np.empty(64, np.intp)
        self._lengths = np.zeros(64, np.int64)
        self._count = 0

    def append(self, token: int) -> None:
        if self._count == len(self._tokens):
            self._tokens = np.concatenate([self._tokens, self._tokens])
            self._lengths = np.concatenate([self._lengths, np.zeros_like(self._lengths)])
        n = self._count
        if token in self._breakers:
            self._lengths[:n] = 0
        elif n:
            # A repetition that ended one place earlier is longer by this token where it goes on.
            same = self._tokens[:n] == token
            self._lengths[1:n] = np.where(same[1:], self._lengths[: n - 1] + 1, 0)
            self._lengths[:1] = same[:1]
        self._tokens[n] = token
        self._lengths[n] = 0
        self._count = n + 1

    def find_penalties(self) -> tuple[NDArray[np.intp], Floats]:
        """The ids that would prolong a repetition, each once, and what is subtracted."""
        s, n = self._sampling, self._count
        first = max(n - s.dry_range, 0) if s.dry_range else 0
        lengths = self._lengths[first : max(n - 1, first)]
        lengths = np.minimum(lengths, np.arange(1, len(lengths) + 1))  # none begins before `first`
        at = np.flatnonzero(lengths >= s.dry_allowed_length)
        longest: dict[int, int] = {}
        for token, length in zip(
            self._tokens[first + at + 1].tolist(), lengths[at].tolist(), strict=True
        ):
            if token not in self._breakers:
                longest[token] = max(longest.get(token, 0), length)
        excess = np.array(list(longest.values()), np.float64) - s.dry_allowed_length
        with np.errstate(over="ignore"):
            penalties = s.dry_multiplier * s.dry_base**excess
        # An infinite penalty would ban the token, and bans of all would leave none.
        return np.array(list(longest), np.intp), np.minimum(penalties, 1e30)

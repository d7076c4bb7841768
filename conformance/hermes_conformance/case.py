"""A case: an architecture, weights for it, and one update's tokens. All a function of its name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hermes.randomness import bits
from hermes.seam import IGNORE, Batch
from hermes.spec import ModelSpec

SEED = 20

Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """name: `architecture/weights`. Letters: A micro-batches of B rows of T tokens.

    make: draws the weights (weights.py, integers.py). packed: rows hold several documents. gain:
    multiplies the head's weights, for logits of any size. blank: the second micro-batch has no
    counted target.
    """

    name: str
    spec: ModelSpec
    make: Callable[["Case"], Weights]
    A: int = 2
    B: int = 2
    T: int = 10
    packed: bool = False
    gain: float = 1.0
    blank: bool = False

    def draw(self, purpose: str, count: int, below: int) -> np.ndarray:
        """Integers from 0 to below - 1, a stream of their own for each purpose. (count,)"""
        words = bits(SEED, f"conformance/{self.name}/{purpose}", count)
        return (words % np.uint64(below)).astype(np.int64)

    @cached_property
    def params(self) -> Weights:
        """The weights, float32."""
        made = dict(self.make(self))
        if self.gain != 1.0:
            tied = self.spec.embeddings.tie_weights
            head = "model.embed_tokens.weight" if tied else "lm_head.weight"
            made[head] = made[head] * np.float32(self.gain)
        return made

    @cached_property
    def batch(self) -> Batch:
        """One update: next-token targets, some not counted, rows numbered as in a run."""
        A, B, T = self.A, self.B, self.T
        text = self.draw("tokens", A * B * (T + 1), self.spec.vocab_size).reshape(A, B, T + 1)
        tokens = text[..., :-1].astype(np.int32)
        targets = text[..., 1:].astype(np.int32)
        segments = self._segments if self.packed else None
        if segments is not None:
            last = np.ones(targets.shape, bool)
            last[..., :-1] = segments[..., 1:] != segments[..., :-1]
            targets[last] = IGNORE
        # Unequal counts, so that a mean of means differs from the mean.
        targets[0, 0, (T + 1) // 2 :] = IGNORE
        if self.blank:
            targets[1] = IGNORE
        rows = np.arange(A * B, dtype=np.uint32).reshape(A, B)
        return Batch(tokens, targets, rows, segments)

    @cached_property
    def _segments(self) -> np.ndarray:
        """Documents of several lengths, cut elsewhere in each row."""
        cuts = self.draw("segments", self.A * self.B * 2, max(self.T - 1, 1))
        cuts = 1 + cuts.reshape(self.A, self.B, 2, 1)
        return (np.arange(self.T) >= cuts).sum(axis=2).astype(np.int32)

    @property
    def tokens(self) -> np.ndarray:
        """The first micro-batch's tokens. (B, T)"""
        return self.batch.tokens[0]

    @property
    def segments(self) -> np.ndarray | None:
        """The first micro-batch's documents. (B, T)"""
        return None if self.batch.segments is None else self.batch.segments[0]

    @property
    def decodes(self) -> bool:
        """Whether a cache can stand in for the full pass: not where tokens see later ones."""
        return all(block.attention.causal for block in self.spec.layers)

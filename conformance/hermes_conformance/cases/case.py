"""A case: an architecture, weights, a recipe, and tokens that follow from its name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from hermes.interface import IGNORE, Batch, PreferencePairs
from hermes.numerics.lora import list_adapter_tensors, merge_adapters
from hermes.numerics.randomness import draw_bits, draw_normals
from hermes.recipe import Recipe
from hermes.spec import ModelSpec

SEED = 20
RECIPE = Recipe(batch_size=2, grad_accum=2, seq_len=10, lr=1e-2, seed=7)
ADAPTER_STD = 0.1

Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """name: `architecture/weights`. Letters: A micro-batches of B rows of T tokens.

    make: draws the weights (weights.py, integers.py). packed: rows hold several documents. gain:
    multiplies the head's weights, for logits of any size. blank: the second micro-batch has no
    counted target. recipe: how learners train it; it decides the objective and the adapters.
    fixed: the first update's batch, where it is not drawn.
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
    recipe: Recipe = RECIPE
    fixed: Batch | None = field(default=None, compare=False)

    def draw(self, purpose: str, count: int, below: int) -> np.ndarray:
        """Integers from 0 to below - 1, a stream of their own for each purpose. (count,)"""
        words = draw_bits(SEED, f"conformance/{self.name}/{purpose}", count)
        return (words % np.uint64(below)).astype(np.int64)

    def normals(self, purpose: str, shape: tuple[int, ...], std: float = 1.0) -> np.ndarray:
        """Normal numbers, a stream of their own for each purpose."""
        return draw_normals(SEED, f"conformance/{self.name}/{purpose}", shape, std)

    @cached_property
    def params(self) -> Weights:
        """What a learner starts from, float32: the model's weights and, with lora, adapters."""
        made = dict(self.make(self))
        if self.gain != 1.0:
            tied = self.spec.embeddings.tie_weights
            head = "model.embed_tokens.weight" if tied else "lm_head.weight"
            made[head] = made[head] * np.float32(self.gain)
        if self.recipe.lora is not None:
            for name, tensor in list_adapter_tensors(self.spec, self.recipe.lora).items():
                made[name] = self.normals(name, tensor.shape, ADAPTER_STD)
        return made

    @cached_property
    def weights(self) -> Weights:
        """What a model is built from: the same, adapters merged in."""
        lora = self.recipe.lora
        return self.params if lora is None else dict(merge_adapters(self.spec, self.params, lora))

    @cached_property
    def batch(self) -> Batch:
        """The first update's batch."""
        return self.fixed or self.update(0)

    def update(self, step: int) -> Batch:
        """The batch of an update: next-token targets, some not counted, rows as in a run."""
        A, B, T = self.A, self.B, self.T
        purpose = f"tokens {step}" if step else "tokens"
        text = self.draw(purpose, A * B * (T + 1), self.spec.vocab_size).reshape(A, B, T + 1)
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
        pairs = None
        if self.recipe.objective == "preference":
            targets[..., : T // 3] = IGNORE  # the prompt
            pairs = PreferencePairs(self._reference(step), self.recipe.preference)
        return Batch(tokens, targets, rows, segments, pairs)

    def _reference(self, step: int) -> np.ndarray:
        """Log-probabilities of rows under some other model. (A, B)"""
        noise = self.normals(f"reference {step}", (self.A, self.B), 2.0)
        return noise.astype(np.float64) - 3.0 * self.T

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
    def dropout(self) -> tuple[int, int] | None:
        """(seed, update) of the first update's masks, None where the model drops nothing."""
        drops = self.spec.has_dropout and self.recipe.objective != "preference"
        return (self.recipe.seed, 1) if drops else None

    @property
    def decodes(self) -> bool:
        """Whether a cache can stand in for the full pass: not where tokens see later ones."""
        return all(block.attention.causal for block in self.spec.layers)

"""A case: an architecture, weights, a recipe, and tokens that follow from its name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from hermes.interface import IGNORE, Batch, PreferencePairs
from hermes.numerics.lora import list_adapter_tensors, merge_adapters
from hermes.numerics.merging import MAGNITUDE, TOKEN_ROWS
from hermes.numerics.params import Tensor
from hermes.numerics.randomness import draw_bits, draw_normals
from hermes.recipe import Recipe
from hermes.spec import DynamicScaling, LongRopeScaling, ModelSpec, Rope

SEED = 20
RECIPE = Recipe(batch_size=2, grad_accum=2, seq_len=10, lr=1e-2, seed=7)
ADAPTER_STD = 0.1

Weights = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Case:
    """name: `architecture/weights`. Letters: A micro-batches of B rows of T tokens.

    make_weights: draws the weights (weights.py, laws/exact_integers.py), and adapters where these
    are not drawn as all others. packed: rows hold several
    documents. head_gain: multiplies the head's weights, for logits of any size.
    blank_micro_batch: the second micro-batch has no target that counts. weighted: targets, or
    pairs, have weights, some of which are 0. recipe: how learners train
    it; it decides the objective and the adapters. fixed_batch: the first step's batch, where it is
    not drawn. reads: how many tokens each read of a decoder takes, in turn, until all T are read;
    empty for those of `laws.semantics.choose_cuts`.
    """

    name: str
    spec: ModelSpec
    make_weights: Callable[["Case"], Weights]
    A: int = 2
    B: int = 2
    T: int = 10
    packed: bool = False
    head_gain: float = 1.0
    blank_micro_batch: bool = False
    weighted: bool = False
    recipe: Recipe = RECIPE
    fixed_batch: Batch | None = field(default=None, compare=False)
    reads: tuple[int, ...] = ()

    def draw_integers(self, purpose: str, count: int, below: int) -> np.ndarray:
        """Integers from 0 to below - 1, from a random stream of this purpose alone. (count,)"""
        words = draw_bits(SEED, f"conformance/{self.name}/{purpose}", count)
        return (words % np.uint64(below)).astype(np.int64)

    def draw_normals(self, purpose: str, shape: tuple[int, ...], std: float = 1.0) -> np.ndarray:
        """Normal numbers, float32, from a random stream of this purpose alone."""
        return draw_normals(SEED, f"conformance/{self.name}/{purpose}", shape, std)

    @cached_property
    def params(self) -> Weights:
        """What a learner starts from, float32: the model's weights and, with LoRA, adapters."""
        params = dict(self.make_weights(self))
        if self.head_gain != 1.0:
            tied = self.spec.embeddings.tie_weights
            head = "model.embed_tokens.weight" if tied else "lm_head.weight"
            params[head] = params[head] * np.float32(self.head_gain)
        if self.recipe.lora is not None:
            for name, tensor in list_adapter_tensors(self.spec, self.recipe.lora).items():
                if name not in params:
                    params[name] = self._draw_adapter(name, tensor, params)
        return params

    def _draw_adapter(self, name: str, tensor: Tensor, params: Weights) -> np.ndarray:
        """A tensor of an adapter; those that start at the base's numbers are near those."""
        noise = self.draw_normals(name, tensor.shape, ADAPTER_STD)
        lora = self.recipe.lora
        assert lora is not None, "only adapters are drawn here"
        match tensor.init:
            case "lengths":
                matrix = params[name.replace(MAGNITUDE, "weight")]
                return np.linalg.norm(matrix, axis=1) * (1 + noise)
            case "rows":
                rows = params[name.replace(TOKEN_ROWS, "weight")][list(lora.token_ids)]
                return rows + np.std(rows) * 10 * noise
        return noise

    @cached_property
    def weights(self) -> Weights:
        """What a model is built from: `params` with the adapters merged in."""
        lora = self.recipe.lora
        return self.params if lora is None else dict(merge_adapters(self.spec, self.params, lora))

    @cached_property
    def batch(self) -> Batch:
        """The first step's batch."""
        return self.fixed_batch or self.make_batch(0)

    def make_batch(self, step: int) -> Batch:
        """The batch of a step, counted from 0: next-token targets, some of which do not count."""
        A, B, T = self.A, self.B, self.T
        purpose = f"tokens {step}" if step else "tokens"
        text = self.draw_integers(purpose, A * B * (T + 1), self.spec.vocab_size)
        text = text.reshape(A, B, T + 1)
        tokens = text[..., :-1].astype(np.int32)
        targets = text[..., 1:].astype(np.int32)
        segments = self._segments if self.packed else None
        if segments is not None:
            last = np.ones(targets.shape, bool)
            last[..., :-1] = segments[..., 1:] != segments[..., :-1]
            targets[last] = IGNORE
        # Unequal counts, so that a mean of the micro-batches' means differs from the mean.
        targets[0, 0, (T + 1) // 2 :] = IGNORE
        if self.blank_micro_batch:
            targets[1] = IGNORE
        rows = np.arange(A * B, dtype=np.uint32).reshape(A, B)
        pairs = None
        if self.recipe.objective == "preference":
            targets[..., : T // 3] = IGNORE  # the prompt
            pairs = PreferencePairs(self._draw_reference(step), self.recipe.preference)
        weights = None
        if self.weighted and pairs is not None:
            quarters = self.draw_integers(f"weights {step}", A * B // 2, 8).reshape(A, B // 2)
            weights = np.tile(quarters / 4, (1, 2)).astype(np.float32)
        elif self.weighted:
            quarters = self.draw_integers(f"weights {step}", targets.size, 8)
            weights = (quarters.reshape(targets.shape) / 4).astype(np.float32)
        return Batch(tokens, targets, rows, segments, pairs, weights=weights)

    def _draw_reference(self, step: int) -> np.ndarray:
        """Log-probabilities of the rows, as a reference model might give them. (A, B)"""
        noise = self.draw_normals(f"reference {step}", (self.A, self.B), 2.0)
        return noise.astype(np.float64) - 3.0 * self.T

    @cached_property
    def _segments(self) -> np.ndarray:
        """Three documents a row, cut at other places in each. (A, B, T)"""
        cuts = self.draw_integers("segments", self.A * self.B * 2, max(self.T - 1, 1))
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
        """(seed, step) of the first step's dropout masks; None where nothing is dropped."""
        lora = self.recipe.lora
        drops = self.spec.has_dropout or (lora is not None and lora.dropout > 0)
        drops = drops and self.recipe.objective != "preference"
        return (self.recipe.seed, 1) if drops else None

    @property
    def can_decode(self) -> bool:
        """Whether decoding gives the full pass's logits: not if tokens attend to later ones."""
        return all(attention.causal for attention in self.spec.attentions)

    @property
    def depends_on_length(self) -> bool:
        """Whether the length of a row changes its logits: it chooses some tables of rope."""
        ropes = (attention.position_encoding for attention in self.spec.attentions)
        chosen = LongRopeScaling | DynamicScaling
        return any(isinstance(rope, Rope) and isinstance(rope.scaling, chosen) for rope in ropes)

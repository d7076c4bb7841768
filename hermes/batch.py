"""What a backend is given to learn from: the micro-batches of a step, and what is refused of them.

Letters: A micro-batches of one step, B sequences, T positions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hermes.errors import HermesError
from hermes.recipe import Preference, Recipe
from hermes.spec import ModelSpec

__all__ = ["IGNORE", "Batch", "LossCounts", "PreferencePairs", "check_batch", "check_tokens"]

IGNORE = -1


@dataclass(frozen=True)
class PreferencePairs:
    """What a batch of preference pairs carries besides its tokens.

    Row b of the first half of B is a chosen completion, row b of the second half its rejected one.
    reference (A, B): each row's summed log-probability of its targets under the reference model, in
    nats; zeros where the loss needs no reference. rule: the preference loss. Dropout is off in such
    a batch, as it is in the reference.
    """

    reference: NDArray[np.float64]
    rule: Preference


@dataclass(frozen=True)
class LossCounts:
    """Totals of a step over all ranks.

    terms: the number of losses that are averaged: targets, or pairs under a preference loss.
    targets: the targets that are not IGNORE, on both sides of a pair. weight: the sum of their
    weights, or the pairs', None where each has 1.
    """

    terms: int
    targets: int
    weight: float | None = None

    @property
    def divisor(self) -> float:
        """What the summed loss is divided by."""
        return self.terms if self.weight is None else self.weight


@dataclass(frozen=True)
class Batch:
    """All micro-batches of one optimizer step, or one rank's share of them.

    tokens (A, B, T): input ids. targets (A, B, T): the id that follows each, or IGNORE where it
    takes no part in the loss. rows (A, B): each sample's index within the step over all ranks,
    which keys its dropout masks. segments (A, B, T): None, or the document of each token; attention
    and positions stay inside a document. pairs: None, or what a preference loss needs.
    global_counts: totals of the step over all ranks; None where this batch is all of it. weights
    (A, B, T): None, or the weight of each target in the loss, which is divided by their sum; of
    pairs (A, B), the same for both rows of a pair. sources (A, B): None, or which of a mixture's
    sources each row is from; a step then reports the rows' log-probabilities. Not with pairs or
    weights. measures_noise: whether a step reports its first_norm. loss_limit: a number of float32;
    a step whose loss is above it is not applied. None where all are, and it is not reported.
    """

    tokens: NDArray[np.int32]
    targets: NDArray[np.int32]
    rows: NDArray[np.uint32]
    segments: NDArray[np.int32] | None = None
    pairs: PreferencePairs | None = None
    global_counts: LossCounts | None = None
    weights: NDArray[np.float32] | None = None
    sources: NDArray[np.int32] | None = None
    measures_noise: bool = False
    loss_limit: float | None = None

    @property
    def counts(self) -> LossCounts:
        """Totals of the whole step, over all ranks."""
        return self.global_counts or self.own_counts

    @property
    def own_counts(self) -> LossCounts:
        """Totals of this batch alone."""
        weight = None
        if self.weights is not None and self.pairs is not None:
            pairs = self.targets.shape[1] // 2
            has_targets = (self.targets[:, :pairs] != IGNORE).any(axis=-1)
            weight = float(self.weights[:, :pairs][has_targets].sum(dtype=np.float64))
        elif self.weights is not None:
            weight = float(self.weights[self.targets != IGNORE].sum(dtype=np.float64))
        return LossCounts(self.num_terms, self.num_targets, weight)

    def get_weights(self) -> NDArray[np.float32]:
        """The weight of each target, 1 where none are given. (A, B, T); not of pairs"""
        return np.ones(self.targets.shape, np.float32) if self.weights is None else self.weights

    @property
    def num_targets(self) -> int:
        """Targets of this batch that are not IGNORE, on both sides of a pair."""
        return int((self.targets != IGNORE).sum())

    @property
    def num_terms(self) -> int:
        """Terms of the loss in this batch: targets, or pairs whose chosen row has one."""
        if self.pairs is None:
            return self.num_targets
        has_target = (self.targets != IGNORE).any(axis=-1)  # (A, B)
        return int(has_target[:, : has_target.shape[1] // 2].sum())


def check_tokens(spec: ModelSpec, tokens: NDArray[np.generic], length: int | None = None) -> None:
    """Refuse ids outside the vocabulary and sequences beyond max_seq_len.

    Frameworks do not check everywhere: an index out of range is undefined behaviour in MLX.
    length: the sequence's length including tokens already in the cache; None for tokens.shape[-1].
    """
    total = tokens.shape[-1] if length is None else length
    if tokens.ndim < 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise HermesError(f"tokens must be integers in rows, got {tokens.dtype} {tokens.shape}")
    if total > spec.max_seq_len:
        raise HermesError(
            f"a sequence of {total} tokens is longer than max_seq_len {spec.max_seq_len}"
        )
    if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < spec.vocab_size:
        worst = int(tokens.max()) if int(tokens.max()) >= spec.vocab_size else int(tokens.min())
        raise HermesError(f"token id {worst} is outside the vocabulary of {spec.vocab_size}")


def check_batch(batch: Batch, recipe: Recipe) -> None:
    """Refuse a batch without targets, or one that does not match the run's objective and rule."""
    if batch.counts.terms == 0 or batch.counts.weight == 0:
        raise HermesError("a batch without a single counted target has no loss")
    if batch.weights is not None:
        pairs = batch.pairs is not None
        if batch.weights.shape != (batch.rows.shape if pairs else batch.targets.shape):
            raise HermesError("a batch's weights belong to its targets, one each, or pairs' rows")
        if pairs and (batch.weights != np.roll(batch.weights, batch.rows.shape[1] // 2, 1)).any():
            raise HermesError("both rows of a pair must have the same weight")
        if not (np.isfinite(batch.weights).all() and (batch.weights >= 0).all()):
            raise HermesError("a batch's weights must be numbers that are at least 0")
    if batch.sources is not None and (batch.pairs is not None or batch.weights is not None):
        raise HermesError("a batch's sources belong to rows of text, not to pairs or weights")
    if (batch.pairs is not None) != (recipe.objective == "preference"):
        found = "single sequences" if batch.pairs is None else "pairs"
        raise HermesError(f"the objective is {recipe.objective!r}, but the batch holds {found}")
    if batch.pairs is not None and batch.pairs.rule != recipe.preference:
        raise HermesError(f"the batch's rule is {batch.pairs.rule}, the run's {recipe.preference}")

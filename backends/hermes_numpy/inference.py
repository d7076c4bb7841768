"""A model that computes logits, log-probabilities and losses, and the decoder that generates."""

from typing import Any

import numpy as np
from numpy import ndarray as Array

from hermes.errors import HermesError
from hermes.interface import Batch, Tensors, check_tokens
from hermes.numerics.params import list_parameters
from hermes.numerics.randomness import dropout_row_keys
from hermes.spec import ModelSpec
from hermes_numpy import ops
from hermes_numpy.cache import KVCache
from hermes_numpy.context import Context
from hermes_numpy.loss import (
    next_token_loss,
    next_token_loss_by_weight,
    preference_loss,
    target_logprobs,
)
from hermes_numpy.model import Transformer


class Model:
    """A Transformer with its weights, in float64."""

    def __init__(self, spec: ModelSpec, params: Tensors):
        self.spec = spec
        self._params = params
        self._module = Transformer(spec, ops).load(params)

    def logits(self, tokens: Array, segments: Array | None = None) -> Array:
        """Scores of the next token at every position. (B, T) -> (B, T, V)."""
        check_tokens(self.spec, np.asarray(tokens))
        return self._module(np.asarray(tokens), Context(segments=segments))

    def logprobs(self, tokens: Array, targets: Array) -> Array:
        """Log-probability of each target in nats, 0 where IGNORE. (B, T) -> (B, T)."""
        return target_logprobs(self.logits(tokens), np.asarray(targets))

    def row_logprobs(self, tokens: Array, targets: Array) -> Array:
        """Each row's summed log-probability of its targets. (B, T) -> (B,)."""
        return self.logprobs(tokens, targets).sum(-1)

    def loss(self, batch: Batch, dropout: tuple[int, int] | None = None) -> float:
        """The batch's loss over all micro-batches; dropout: its (seed, step), or None for none."""
        return float(self.compute_loss(batch, dropout))

    def preferences(self, batch: Batch) -> tuple[float, Array]:
        """A batch of pairs' loss, and each row's log-probability. (A, B)"""
        micro_batches = zip(batch.tokens, batch.targets, strict=True)
        rows = [self.row_logprobs(tokens, targets) for tokens, targets in micro_batches]
        return self.loss(batch), np.stack(rows)

    def compute_loss(self, batch: Batch, dropout: tuple[int, int] | None = None) -> Array:
        """As loss, but of the weights' own type: they may be complex, or arrays that trace."""
        total: Any = 0.0
        for a in range(len(batch.tokens)):
            segments = None if batch.segments is None else batch.segments[a]
            dropout_keys = None if dropout is None else dropout_row_keys(*dropout, batch.rows[a])
            ctx = Context(segments=segments, dropout_keys=dropout_keys)
            logits = self._module(batch.tokens[a], ctx)
            if batch.weights is not None:
                total = total + next_token_loss_by_weight(
                    logits, batch.targets[a], batch.weights[a]
                )
            elif batch.pairs is None:
                total = total + next_token_loss(logits, batch.targets[a])
            else:
                rule, reference = batch.pairs.rule, batch.pairs.reference[a]
                total = total + preference_loss(logits, batch.targets[a], reference, rule)
        return total / (batch.own_counts.divisor or 1)

    def decoder(self, batch_size: int, capacity: int) -> "Decoder":
        """An empty KV cache for rows of at most `capacity` tokens."""
        return Decoder(self._module, batch_size, capacity, len(self.spec.layers))

    def params(self) -> Tensors:
        """The weights by name."""
        return {name: self._params[name] for name in list_parameters(self.spec)}


class Decoder:
    """A KV cache over rows that advance together."""

    def __init__(self, module: Transformer, batch_size: int, capacity: int, num_layers: int):
        self._module, self._rows, self._capacity = module, batch_size, capacity
        self._cache = KVCache(num_layers, capacity)

    def advance(self, tokens: Array) -> Array:
        """Read (B, T) more tokens; return the logits after the last, (B, V)."""
        rows, T = tokens.shape
        length = self._cache.length + T
        if rows != self._rows or length > self._capacity:
            raise HermesError(
                f"a decoder of {self._rows} rows and {self._capacity} tokens cannot hold "
                f"{rows} rows of {length}"
            )
        logits = self._module(tokens, Context(cache=self._cache))[:, -1]
        self._cache.length = length
        return logits

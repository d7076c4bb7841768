"""A model that computes logits, log-probabilities and losses, and the decoder that generates."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy import ndarray as Array

from hermes.errors import HermesError
from hermes.formatting import format_count
from hermes.interface import Batch, Tensors, check_tokens
from hermes.numerics.params import list_parameters
from hermes.numerics.randomness import dropout_row_keys
from hermes.numerics.row_layout import check_row_tensors
from hermes.recipe import Lora
from hermes.spec import ModelSpec
from hermes_numpy import ops
from hermes_numpy.cache import KVCache
from hermes_numpy.context import Context
from hermes_numpy.lora import LoraLinear, adapt
from hermes_numpy.loss import (
    next_token_loss,
    next_token_loss_by_weight,
    preference_loss,
    target_logprobs,
    z_loss,
)
from hermes_numpy.model import Transformer


class Model:
    """A Transformer with its weights, in float64."""

    def __init__(self, spec: ModelSpec, params: Tensors):
        self.spec = spec
        self._params = params
        self._module = Transformer(spec, ops).load(params)
        self._adapters: list[LoraLinear] = []

    def adapt(self, params: Tensors, lora: Lora) -> None:
        """Put adapters among `params` beside the weights instead of into them: they may drop."""
        self._adapters = adapt(self._module, self.spec, params, lora)

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

    def compute_loss(
        self, batch: Batch, dropout: tuple[int, int] | None = None, z_weight: float = 0.0
    ) -> Array:
        """As loss, but of the weights' own type: they may be complex, or arrays that trace.

        z_weight: of the z-loss, which training adds.
        """
        total: Any = 0.0
        for a in range(len(batch.tokens)):
            segments = None if batch.segments is None else batch.segments[a]
            dropout_keys = None if dropout is None else dropout_row_keys(*dropout, batch.rows[a])
            ctx = Context(segments=segments, dropout_keys=dropout_keys)
            for adapter in self._adapters:
                adapter.ctx = ctx
            logits = self._module(batch.tokens[a], ctx)
            targets = batch.targets[a]
            weights = None if batch.weights is None else batch.weights[a]
            if batch.pairs is not None:
                rule, reference = batch.pairs.rule, batch.pairs.reference[a]
                total = total + preference_loss(logits, targets, reference, rule, weights)
            elif weights is not None:
                total = total + next_token_loss_by_weight(logits, targets, weights)
            else:
                total = total + next_token_loss(logits, targets)
            if z_weight:
                total = total + z_weight * z_loss(logits, targets, weights)
        return total / (batch.own_counts.divisor or 1)

    def decoder(self, batch_size: int, capacity: int) -> "Decoder":
        """An empty KV cache for rows of at most `capacity` tokens."""
        return Decoder(self._module, batch_size, capacity, len(self.spec.layers))

    def row_decoder(self, rows: int, capacity: int) -> "RowDecoder":
        """A KV cache for rows that begin, advance and end each by itself."""
        return RowDecoder(self, rows, capacity)

    def invariant_row_decoder(self, rows: int, capacity: int) -> "RowDecoder":
        """The same: each row is read by itself."""
        return RowDecoder(self, rows, capacity)

    def params(self) -> Tensors:
        """The weights by name."""
        return {name: self._params[name] for name in list_parameters(self.spec)}


class Decoder:
    """A KV cache over rows that advance together."""

    def __init__(self, module: Transformer, batch_size: int, capacity: int, num_layers: int):
        self._module, self._rows, self._capacity = module, batch_size, capacity
        self._cache = KVCache(num_layers, capacity)

    @property
    def length(self) -> int:
        """Tokens read so far."""
        return self._cache.length

    def advance(self, tokens: Array) -> Array:
        """Read (B, T) more tokens; return the logits after the last, (B, V)."""
        rows, T = tokens.shape
        length = self._cache.length + T
        if rows != self._rows or length > self._capacity:
            raise HermesError(
                f"a decoder of {format_count(self._rows, 'rows')} and {self._capacity} tokens "
                f"cannot hold {format_count(rows, 'rows')} of {length}"
            )
        logits = self._module(tokens, Context(cache=self._cache))[:, -1]
        self._cache.length = length
        return logits

    def read(self) -> Tensors:
        """Keys and values of the one row, by layer. (K, S, D), (K, S, E)"""
        return self._cache.read()

    def write(self, length: int, tensors: Tensors) -> None:
        """Take `length` tokens as `read` gave them."""
        self._cache.write(length, tensors)

    def fork(self, capacity: int, length: int) -> "Decoder":
        """A decoder that has read the first `length` tokens."""
        new = Decoder(self._module, self._rows, capacity, self._cache.num_layers)
        new._cache = self._cache.copy(capacity, length)
        return new


class RowDecoder:
    """A KV cache over rows of different lengths: here a decoder for each, so that none sees others.

    A row begins with tokens of another only if both are for as many: tables of rope may depend on
    that.
    """

    def __init__(self, model: Model, rows: int, capacity: int):
        self._model, self._capacity = model, capacity
        self._rows: list[tuple[Decoder, int] | None] = [None] * rows

    def open_row(
        self, row: int, capacity: int, *, source: int | None = None, length: int = 0
    ) -> int:
        """Begin a row for `capacity` tokens, with `length` of another's if it can. -> as begun"""
        if not (0 <= row < len(self._rows) and length < capacity <= self._capacity):
            raise HermesError(
                f"a cache of {format_count(len(self._rows), 'rows')} of "
                f"{format_count(self._capacity, 'tokens')} has no row {row} for {capacity} that "
                f"begins with {length}"
            )
        other = None if source is None else self._rows[source]
        if other is not None and other[1] == capacity and length <= other[0].length:
            self._rows[row] = other[0].fork(capacity, length), capacity
            return length
        self._rows[row] = self._model.decoder(1, capacity), capacity
        return 0

    def read_row(self, row: int) -> Tensors:
        """What the cache has of a row, as `KeepsRows` says."""
        opened = self._rows[row]
        if opened is None:
            raise HermesError(f"row {row} is not open")
        return opened[0].read()

    def write_row(self, row: int, capacity: int, length: int, tensors: Tensors) -> bool:
        """Begin a row with what `read_row` gave, as `KeepsRows` says."""
        if not 0 < length <= capacity <= self._capacity:
            return False
        if not all(tensor.shape[1] == length for tensor in tensors.values()):
            return False  # the oracle's layers keep all tokens
        probe, decoder = (self._model.decoder(1, capacity) for _ in range(2))
        probe.advance(np.zeros((1, 1), np.int64))
        check_row_tensors(probe.read(), tensors, self._model.spec.num_layers)
        decoder.write(length, tensors)
        self._rows[row] = decoder, capacity
        return True

    def advance(self, rows: Sequence[int], tokens: Array, counts: Sequence[int]) -> Array:
        """Append counts[b] of tokens[b] to rows[b]; the logits after each row's last, (B, V)."""
        if len(set(rows)) != len(rows) or not len(rows) == len(tokens) == len(counts):
            many = format_count(len(tokens), "rows of tokens need", "row of tokens needs")
            raise HermesError(f"{many} as many different rows: {rows}")
        if not all(1 <= count <= tokens.shape[1] for count in counts):
            raise HermesError(f"counts must be from 1 to {tokens.shape[1]}, got {counts}")
        check_tokens(self._model.spec, tokens)
        logits = []
        for row, row_tokens, count in zip(rows, tokens, counts, strict=True):
            opened = self._rows[row]
            if opened is None:
                raise HermesError(f"row {row} is not open")
            logits.append(opened[0].advance(row_tokens[None, :count])[0])
        return np.stack(logits)

"""A model that computes logits, log-probabilities and losses, and the decoder that generates."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Array

from hermes.errors import HermesError, Unsupported
from hermes.formatting import format_count
from hermes.interface import Batch, LazyTensors, check_tokens
from hermes.numerics.row_layout import find_windows
from hermes_torch.cache import KVCache
from hermes_torch.compiled_evaluation import CompiledEvaluation
from hermes_torch.context import Context
from hermes_torch.invariant_rows import InvariantRowDecoder
from hermes_torch.loss import preference_loss
from hermes_torch.row_decoder import RowDecoder
from hermes_torch.runtime import Runtime
from hermes_torch.static_decoder import StaticDecoder
from hermes_torch.static_rows import StaticRowDecoder

Ids = NDArray[np.integer]


class Model:
    """A model for evaluation and decoding."""

    def __init__(self, runtime: Runtime):
        self.spec = runtime.spec
        self.runtime = runtime
        self._evaluation = CompiledEvaluation(runtime)

    def _prepare(self, tokens: Ids, segments: Ids | None = None) -> tuple[Array, Context]:
        tokens = np.asarray(tokens)
        check_tokens(self.spec, tokens)
        runtime = self.runtime
        runtime.tables.prepare(tokens.shape[1])
        boundaries = runtime.load_boundaries(segments)
        ctx = runtime.make_context(None, *runtime.load_segments(segments), boundaries=boundaries)
        return runtime.to_device(tokens), ctx

    def _score(
        self, score: Any, tokens: Ids, targets: Ids, layout: Any, segments: Ids | None = None
    ) -> Array:
        """Call an objective of the ops table on the stack's output; layout: its third argument."""
        tokens_and_ctx = self._prepare(tokens, segments)
        return self.runtime.module(*tokens_and_ctx, score, self.runtime.to_device(targets), layout)

    def _compute_logprobs(self, tokens: Ids, targets: Ids, segments: Ids | None = None) -> Array:
        target_indices = self.runtime.find_targets(targets)
        return self._score(self.runtime.ops.logprobs, tokens, targets, target_indices, segments)

    @torch.no_grad()
    def logits(self, tokens: Ids, segments: Ids | None = None) -> NDArray[np.floating]:
        """Scores of the next token at every position. (B, T) -> (B, T, V)."""
        with self.runtime.apply_options():
            return self.runtime.to_numpy(self.runtime.module(*self._prepare(tokens, segments)))

    @torch.no_grad()
    def logprobs(self, tokens: Ids, targets: Ids) -> NDArray[np.floating]:
        """Log-probability of each target in nats, 0 where IGNORE. (B, T) -> (B, T)."""
        with self.runtime.apply_options():
            return self.runtime.to_numpy(self._compute_logprobs(tokens, targets))

    @torch.no_grad()
    def row_logprobs(self, tokens: Ids, targets: Ids) -> NDArray[np.floating]:
        """Each row's summed log-probability of its targets, summed as in training. -> (B,)."""
        with self.runtime.apply_options():
            return self.runtime.to_numpy(self._compute_rows(tokens, targets))

    def _compute_rows(self, tokens: Ids, targets: Ids) -> Array:
        """row_logprobs on the device, compiled where that works."""
        tokens, targets = np.asarray(tokens), np.asarray(targets)
        if self._compiles_evaluation(tokens):
            check_tokens(self.spec, tokens)
            rows = self._evaluation.compute_rows(tokens, targets)
            if rows is not None:
                return rows
        pair_layout = self.runtime.make_pair_layout(targets)
        return self._score(self.runtime.ops.row_logprobs, tokens, targets, pair_layout)

    @torch.no_grad()
    def loss(self, batch: Batch) -> float:
        """The batch's loss over all micro-batches, without dropout."""
        if batch.pairs is not None:
            return self.preferences(batch)[0]
        total: Any = 0.0
        with self.runtime.apply_options():
            for a in range(len(batch.tokens)):
                total = total + self._compute_loss(batch, a)
        return float(total) / (batch.own_counts.divisor or 1)

    def _compute_loss(self, batch: Batch, a: int) -> Array:
        """The summed loss of micro-batch a, compiled where that works."""
        tokens, targets = np.asarray(batch.tokens[a]), np.asarray(batch.targets[a])
        segments = None if batch.segments is None else batch.segments[a]
        weights = None if batch.weights is None else batch.weights[a]
        if self._compiles_evaluation(tokens):
            check_tokens(self.spec, tokens)
            loss = self._evaluation.compute_loss(tokens, targets, segments, weights)
            if loss is not None:
                return loss
        logprobs = self._compute_logprobs(tokens, targets, segments)
        if weights is not None:
            logprobs = logprobs * self.runtime.to_device(weights, self.runtime.master)
        return -logprobs.sum()

    def _compiles_evaluation(self, tokens: Ids) -> bool:
        """Whether these rows are evaluated compiled; a learner decides by their length."""
        return self._evaluation.is_on

    @torch.no_grad()
    def preferences(self, batch: Batch) -> tuple[float, NDArray[np.floating]]:
        """A batch of pairs' loss, and each row's log-probability from the same pass. (A, B)"""
        assert batch.pairs is not None
        total: Any = 0.0
        runtime, rows = self.runtime, []
        with runtime.apply_options():
            for a in range(len(batch.tokens)):
                sums = self._compute_rows(batch.tokens[a], batch.targets[a])
                targets = runtime.to_device(batch.targets[a])
                reference = runtime.to_device(batch.pairs.reference[a], runtime.master)
                weights = None
                if batch.weights is not None:
                    weights = runtime.to_device(batch.weights[a], runtime.master)
                total = total + preference_loss(sums, targets, reference, batch.pairs.rule, weights)
                rows.append(runtime.to_numpy(sums))
        return float(total) / (batch.own_counts.divisor or 1), np.stack(rows)

    def decoder(self, batch_size: int, capacity: int) -> "Decoder | StaticDecoder":
        """An empty KV cache for rows of at most `capacity` tokens."""
        if self._has_device_steps:
            return self.make_device_decoder(batch_size, capacity)
        return Decoder(self.runtime, batch_size, capacity)

    def row_decoder(self, rows: int, capacity: int) -> RowDecoder:
        """A KV cache for rows that begin, advance and end each by itself."""
        if self._has_device_steps:
            return self.make_device_row_decoder(rows, capacity)
        return RowDecoder(self.runtime, rows, capacity)

    def make_device_decoder(self, batch_size: int, capacity: int) -> StaticDecoder:
        """A decoder whose steps CUDA captures; as `DecodesOnDevice` says."""
        self._require_whole()
        return StaticDecoder(self.runtime, batch_size, capacity)

    def make_device_row_decoder(self, rows: int, capacity: int) -> StaticRowDecoder:
        """A row_decoder of the same kind."""
        self._require_whole()
        return StaticRowDecoder(self.runtime, rows, capacity)

    def invariant_row_decoder(self, rows: int, capacity: int) -> RowDecoder:
        """A row_decoder of which a row's bits do not depend on the others."""
        return InvariantRowDecoder(self.runtime, rows, capacity)

    @property
    def _has_device_steps(self) -> bool:
        """Whether decoders are CUDA's, whose choice of tokens sums in any order."""
        runtime = self.runtime
        is_whole = not runtime.shards
        return is_whole and runtime.device.type == "cuda" and not runtime.options.deterministic

    def _require_whole(self) -> None:
        if self.runtime.shards:
            raise Unsupported("a model that is split is not decoded by captured steps")

    def params(self) -> LazyTensors:
        """The weights, one at a time."""
        runtime, state = self.runtime, self.runtime.module.state_dict()
        frozen = runtime.frozen

        def make(name: str) -> NDArray[np.generic]:
            if frozen is not None and name in frozen:
                return frozen.read(name)
            return runtime.read_parameter(name, state[name])

        stage = (lambda name: runtime.stage(state[name])) if runtime.stages else None
        return LazyTensors(runtime.names, make, frozen or (), stage)


class Decoder:
    """A KV cache over rows that advance together."""

    def __init__(self, runtime: Runtime, batch_size: int, capacity: int):
        self._runtime, self._rows, self._capacity = runtime, batch_size, capacity
        windows = find_windows(runtime.spec, capacity)
        self._cache = KVCache(runtime.spec.num_layers, capacity, windows)

    @torch.inference_mode()
    def advance(self, tokens: Ids) -> NDArray[np.floating]:
        """Read (B, T) more tokens; return the logits after the last, (B, V)."""
        tokens = np.asarray(tokens)
        rows, T = tokens.shape
        length = self._cache.length + T
        if rows != self._rows or length > self._capacity:
            raise HermesError(
                f"a decoder of {format_count(self._rows, 'rows')} and {self._capacity} tokens "
                f"cannot hold {format_count(rows, 'rows')} of {length}"
            )
        check_tokens(self._runtime.spec, tokens, length)
        runtime, ctx = self._runtime, self._runtime.make_context(self._cache)
        with runtime.apply_options():
            runtime.tables.prepare(self._capacity)
            logits = runtime.compute_last_logits(runtime.to_device(tokens), ctx)
        self._cache.length = length
        return logits

"""A model that computes logits, log-probabilities and losses, and the decoder that generates."""

from collections.abc import Callable, Iterator
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.core import array as Array
from numpy.typing import NDArray

from hermes.errors import HermesError
from hermes.formatting import format_count
from hermes.interface import PREFILL_CHUNK, Batch, LazyTensors, TokenChoice, check_tokens
from hermes.numerics.row_layout import find_windows
from hermes_mlx.cache import KVCache
from hermes_mlx.chunked_loss import choose_chunk_size
from hermes_mlx.compiled_evaluation import CompiledEvaluation
from hermes_mlx.context import Context
from hermes_mlx.device_memory import CLEAR_EVERY, METAL_CHUNK, clear_cache
from hermes_mlx.invariant_rows import InvariantRowDecoder
from hermes_mlx.loss import preference_loss, upcast
from hermes_mlx.row_decoder import DeviceRowDecoder, RowDecoder
from hermes_mlx.runtime import Runtime
from hermes_mlx.token_choice import choose_tokens

Ids = NDArray[np.integer]


class Model:
    """A model for evaluation and decoding."""

    def __init__(self, runtime: Runtime):
        self.spec = runtime.spec
        self.runtime = runtime
        self._evaluation = CompiledEvaluation(runtime)

    def _prepare(
        self, tokens: Ids, segments: Ids | None = None, *, scores_all: bool = False
    ) -> tuple[Array, Context]:
        """What the module takes. scores_all: each token gets logits, and no log-probability."""
        tokens = np.asarray(tokens)
        check_tokens(self.spec, tokens)
        runtime = self.runtime
        self._require_room(tokens, scores_all=scores_all)
        runtime.tables.prepare(tokens.shape[1])
        ctx = runtime.make_context(None, *runtime.load_segments(segments))
        return runtime.to_device(tokens), ctx

    def _require_room(self, tokens: Ids, *, scores_all: bool = False) -> None:
        """Raise MemoryError where a pass over (B, T) goes beyond the limits of this process."""
        B, T = tokens.shape
        if scores_all:
            self.runtime.require_pass(B, T, T, B * T)
        else:
            chunk = min(choose_chunk_size(self.runtime.module), B * T)
            self.runtime.require_pass(B, T, T, chunk, scores=True)

    def _score(
        self, score: Any, tokens: Ids, targets: Ids, layout: Any, segments: Ids | None = None
    ) -> Array:
        """Call an objective of the ops table on the stack's output; layout: its third argument."""
        module = self.runtime.module
        x = module.model(*self._prepare(tokens, segments))
        return score(module, x, self.runtime.to_device(targets), layout)

    def _compute_logprobs(self, tokens: Ids, targets: Ids, segments: Ids | None = None) -> Array:
        target_indices = self.runtime.find_targets(targets)
        return self._score(self.runtime.ops.logprobs, tokens, targets, target_indices, segments)

    def logits(self, tokens: Ids, segments: Ids | None = None) -> NDArray[np.floating]:
        """Scores of the next token at every position. (B, T) -> (B, T, V)."""
        with self.runtime.apply_options():
            given = self._prepare(tokens, segments, scores_all=True)
            return self.runtime.to_numpy(self.runtime.module(*given))

    def logprobs(self, tokens: Ids, targets: Ids) -> NDArray[np.floating]:
        """Log-probability of each target in nats, 0 where IGNORE. (B, T) -> (B, T)."""
        with self.runtime.apply_options():
            return self.runtime.to_numpy(self._compute_logprobs(tokens, targets))

    def row_logprobs(self, tokens: Ids, targets: Ids) -> NDArray[np.floating]:
        """Each row's summed log-probability of its targets, summed as in training. -> (B,)."""
        with self.runtime.apply_options():
            return self.runtime.to_numpy(self._compute_rows(tokens, targets))

    def _compute_rows(self, tokens: Ids, targets: Ids) -> Array:
        """row_logprobs on the device, compiled where that is asked for."""
        tokens, targets = np.asarray(tokens), np.asarray(targets)
        if self._evaluation.is_on:
            check_tokens(self.spec, tokens)
            self._require_room(tokens)
            return self._evaluation.compute_rows(tokens, targets)
        pair_layout = self.runtime.make_pair_layout(targets)
        return self._score(self.runtime.ops.row_logprobs, tokens, targets, pair_layout)

    def loss(self, batch: Batch) -> float:
        """The batch's loss over all micro-batches, without dropout."""
        if batch.pairs is not None:
            return self.preferences(batch)[0]
        total: Any = 0.0
        with self.runtime.apply_options():
            for a in range(len(batch.tokens)):
                total = total + self._sum_loss(batch, a)
                mx.async_eval(total)  # or the passes of all micro-batches begin at the end
            return total.item() / (batch.own_counts.divisor or 1)

    def _sum_loss(self, batch: Batch, a: int) -> Array:
        """The summed loss of micro-batch a."""
        tokens, targets = np.asarray(batch.tokens[a]), np.asarray(batch.targets[a])
        segments = None if batch.segments is None else batch.segments[a]
        weights = None if batch.weights is None else batch.weights[a]
        if self._evaluation.is_on:
            check_tokens(self.spec, tokens)
            self._require_room(tokens)
            return self._evaluation.compute_loss(tokens, targets, segments, weights)
        logprobs = self._compute_logprobs(tokens, targets, segments)
        if weights is not None:
            logprobs = logprobs * self.runtime.to_device(weights, self.runtime.master)
        return -logprobs.sum()

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
            return total.item() / (batch.own_counts.divisor or 1), np.stack(rows)

    def decoder(self, batch_size: int, capacity: int) -> "Decoder":
        """An empty KV cache for rows of at most `capacity` tokens."""
        kind = DeviceDecoder if self.runtime.is_on_gpu else Decoder
        return kind(self.runtime, batch_size, capacity)

    def row_decoder(self, rows: int, capacity: int) -> RowDecoder:
        """A KV cache for rows that begin, advance and end each by itself."""
        kind = DeviceRowDecoder if self.runtime.is_on_gpu else RowDecoder
        return kind(self.runtime, rows, capacity)

    def make_device_decoder(self, batch_size: int, capacity: int) -> "DeviceDecoder":
        """A decoder that chooses on its device; as `DecodesOnDevice` says."""
        return DeviceDecoder(self.runtime, batch_size, capacity)

    def make_device_row_decoder(self, rows: int, capacity: int) -> DeviceRowDecoder:
        """A row_decoder of the same kind."""
        return DeviceRowDecoder(self.runtime, rows, capacity)

    def invariant_row_decoder(self, rows: int, capacity: int) -> RowDecoder:
        """A row_decoder of which a row's bits do not depend on the others."""
        return InvariantRowDecoder(self.runtime, rows, capacity)

    @property
    def prefill_chunk(self) -> int:
        """How many tokens of a prompt are read at once, as `ReadsChunks` says."""
        return METAL_CHUNK if self.runtime.is_on_gpu else PREFILL_CHUNK

    def params(self) -> LazyTensors:
        """The weights, one at a time."""
        tensors = self.runtime.get_parameters()
        frozen = self.runtime.frozen

        def make(name: str) -> NDArray[np.generic]:
            if frozen is not None and name in frozen:
                return frozen.read(name)
            return self.runtime.to_numpy(tensors[name])

        def stage(name: str) -> Callable[[], NDArray[np.generic]]:
            return self.runtime.stage(tensors[name])

        return LazyTensors(self.runtime.names, make, frozen or (), stage)


class Decoder:
    """A KV cache over rows that advance together."""

    def __init__(self, runtime: Runtime, batch_size: int, capacity: int):
        self._runtime, self._rows, self._capacity = runtime, batch_size, capacity
        windows = find_windows(runtime.spec, capacity)
        new_cache = batch_size, capacity
        runtime.require_pass(batch_size, 1, capacity, batch_size, cache=new_cache)
        self._cache = KVCache(runtime.spec.num_layers, capacity, windows)

    def advance(self, tokens: Ids) -> NDArray[np.floating]:
        """Read (B, T) more tokens; return the logits after the last, (B, V)."""
        tokens = np.asarray(tokens)
        length = self._check_room(*tokens.shape)
        check_tokens(self._runtime.spec, tokens, length)
        with self._runtime.apply_options():
            logits = self._begin_read(self._runtime.to_device(tokens))
            return self._runtime.to_numpy(logits)

    def _check_room(self, rows: int, T: int) -> int:
        """How many tokens rows have with T more. Raises HermesError."""
        length = self._cache.length + T
        if rows != self._rows or length > self._capacity:
            raise HermesError(
                f"a decoder of {format_count(self._rows, 'rows')} and {self._capacity} tokens "
                f"cannot hold {format_count(rows, 'rows')} of {length}"
            )
        return length

    def _begin_read(self, tokens: Array) -> Array:
        """The logits after tokens that were checked, not evaluated. (B, T) -> (B, V)"""
        runtime, ctx = self._runtime, self._runtime.make_context(self._cache)
        B, T = tokens.shape
        length = self._cache.length + T
        new_cache = (0, 0) if self._cache.length else (B, self._capacity)
        runtime.require_pass(B, T, length, B, cache=new_cache)
        runtime.tables.prepare(self._capacity)
        x = runtime.module.model(tokens, ctx)[:, -1]
        if length // CLEAR_EVERY > self._cache.length // CLEAR_EVERY:
            clear_cache(runtime.device)
        self._cache.length = length
        return runtime.module.compute_logits(x)


class DeviceDecoder(Decoder):
    """A Decoder that chooses on its device, and begins a step before the last token is read."""

    def write_ahead(
        self,
        token: int,
        choice: TokenChoice,
        uniforms: Iterator[float],
        count: int,
        vocab_size: int,
    ) -> Iterator[int]:
        """Append a token to the only row, and what follows; as `WritesAhead` says."""
        last = self._begin_step(mx.array([token]), choice, next(uniforms), vocab_size)
        for _ in range(count - 1):
            following = self._begin_step(last, choice, next(uniforms), vocab_size)
            yield int(np.array(last)[0])
            last = following
        yield int(np.array(last)[0])

    def _begin_step(
        self, token: Array, choice: TokenChoice, uniform: float, vocab_size: int
    ) -> Array:
        """Queue a step and return its token, which is being computed. (1,) -> (1,)"""
        self._check_room(len(token), 1)
        with self._runtime.apply_options():
            # What could not be chosen, -1, ends the text; an index must be one until then.
            logits = upcast(self._begin_read(mx.maximum(token, 0)[:, None]))
            chosen = choose_tokens(logits, [choice], [uniform], vocab_size, self._runtime.widest)
            mx.async_eval(chosen)
        return chosen

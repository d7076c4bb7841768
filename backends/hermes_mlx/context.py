"""State shared by the layers of one forward pass: positions, KV cache, masks and dropout."""

from collections.abc import Callable
from typing import Any

import mlx.core as mx
from mlx.core import array as Array
from mlx.nn import Module
from mlx.utils import tree_flatten

from hermes.numerics import positions
from hermes.spec import AttentionSpec, ModelSpec, Rope
from hermes_mlx.cache import KVCache
from hermes_mlx.recomputation import run_again


def lowbias32(x: Array) -> Array:
    """The hash hermes.numerics.randomness.lowbias32, on uint32. (...) -> (...)."""
    x = (x ^ (x >> 16)) * mx.array(0x7FEB352D, mx.uint32)
    x = (x ^ (x >> 15)) * mx.array(0x846CA68B, mx.uint32)
    return x ^ (x >> 16)


MAX_TABLES = 8  # of one rope: dynamic scaling has a table for each length


class PositionTables:
    """RoPE's cosines and sines, once per distinct rope, and ALiBi's slopes.

    Both are computed in float64 on the host, then cast: float32 angles are wrong at long contexts.
    Under longrope and dynamic the length of a row or a KV cache chooses a rope's table.
    """

    def __init__(self, spec: ModelSpec, dtype: mx.Dtype):
        self.dtype = dtype
        self.max_seq_len = spec.max_seq_len
        self.ropes: dict[tuple[Rope, int], None] = {}
        self.angles: dict[tuple[Rope, int, int], tuple[Array, ...]] = {}
        self.slopes: dict[int, Array] = {}
        for attention in spec.attentions:
            if isinstance(attention.position_encoding, Rope):
                self.ropes[attention.position_encoding, attention.rotary_size] = None
            slopes = positions.alibi_slopes(attention.num_heads)
            self.slopes[attention.num_heads] = mx.array(slopes, dtype)
        for length in (1, spec.max_seq_len):
            self.prepare(length)

    def prepare(self, length: int) -> None:
        """Make the tables for rows or a KV cache of this length; before a pass, compiled or not."""
        for rope, size in self.ropes:
            key = rope, size, positions.choose_table_length(rope, length, self.max_seq_len)
            if key in self.angles:
                continue
            others = [other for other in self.angles if other[:2] == key[:2]]
            if len(others) >= MAX_TABLES:
                del self.angles[others[0]]
            cos_sin = positions.rotary_table(*key)
            self.angles[key] = tuple(mx.array(table, self.dtype) for table in cos_sin)

    def get_angles(self, spec: AttentionSpec, length: int) -> tuple[Array, ...]:
        """Cosines and sines for rows or a KV cache of this length. (positions, R/2) each"""
        rope = spec.position_encoding
        assert isinstance(rope, Rope)
        chosen = positions.choose_table_length(rope, length, self.max_seq_len)
        return self.angles[rope, spec.rotary_size, chosen]


class Context:
    """One forward pass.

    segments, positions_in_document: (B, T) integers, or None where every row is one document.
    dropout_keys: (B,) uint32, or None for no dropout. recompute: blocks are run again in the
    backward pass (activation checkpointing).
    """

    def __init__(
        self,
        tables: PositionTables,
        dtype: mx.Dtype,
        cache: KVCache | None = None,
        segments: Array | None = None,
        positions_in_document: Array | None = None,
        dropout_keys: Array | None = None,
        recompute: bool = False,
    ):
        self.tables, self.dtype, self.cache = tables, dtype, cache
        self.segments, self.positions_in_document = segments, positions_in_document
        self.dropout_keys, self.recompute = dropout_keys, recompute
        self._masks: dict[tuple[int, int, bool, int | None], Array | None] = {}
        self._paired: dict[tuple[Rope, int], tuple[Array, Array]] = {}

    @property
    def is_decoding(self) -> bool:
        """Whether the pass has a KV cache, and so no gradient."""
        return self.cache is not None

    @property
    def offset(self) -> int:
        """Tokens in the KV cache before this pass."""
        return self.cache.length if self.cache else 0

    def positions(self, T: int) -> Array:
        """Position of each token in its document. (T,) or (B, T)"""
        if self.positions_in_document is not None:
            return self.positions_in_document
        return mx.arange(self.offset, self.offset + T)

    def angles(self, spec: AttentionSpec, T: int) -> tuple[Array, Array]:
        """Cosine and sine of RoPE's angles for each token and pair. (T, R/2) or (B, T, R/2)"""
        cos, sin = self.tables.get_angles(spec, self.cache.capacity if self.cache else T)
        if self.positions_in_document is not None:
            return cos[self.positions_in_document], sin[self.positions_in_document]
        return cos[self.offset : self.offset + T], sin[self.offset : self.offset + T]

    def pair_angles(self, spec: AttentionSpec, T: int) -> tuple[Array, Array]:
        """The angles for both elements of each pair: cos and cos, -sin and sin, for all heads.

        (1, T, 2, R/2) or (B, 1, T, 2, R/2)
        """
        rope = spec.position_encoding
        assert isinstance(rope, Rope)
        key = rope, spec.rotary_size
        if key not in self._paired:  # layers mostly share one rope
            cos, sin = self.angles(spec, T)
            cosines, sines = mx.stack([cos, cos], axis=-2), mx.stack([-sin, sin], axis=-2)
            self._paired[key] = cosines[..., None, :, :, :], sines[..., None, :, :, :]
        return self._paired[key]

    def rotate(self, ops: Any, q: Array, k: Array, spec: AttentionSpec) -> tuple[Array, Array]:
        """Apply RoPE to queries and keys. (B, H, T, D), (B, K, T, D) -> same."""
        if self.is_decoding:  # in fewer operations, whose gradient is not wanted
            cos, sin = self.pair_angles(spec, q.shape[2])
            return ops.rotate_pairs(q, cos, sin), ops.rotate_pairs(k, cos, sin)
        cos, sin = self.angles(spec, q.shape[2])
        return ops.rotate(q, cos, sin), ops.rotate(k, cos, sin)

    def alibi_slopes(self, heads: int) -> Array:
        """ALiBi's fixed slopes. (H,)"""
        return self.tables.slopes[heads]

    def run_block(self, block: Module, x: Array) -> Array:
        """Apply a block. With `recompute` its activations are computed again in the backward pass.

        What runs again sees only its arguments, so parameters are among them: those that the block
        holds would get no gradient.
        """
        if not self.recompute:
            return block(x, self)

        def run(params: dict, x: Array) -> Array:
            own = block.parameters()
            block.update(params)
            y = block(x, self)
            block.update(own)  # or frozen ones would stay what they were in a trace
            return y

        trained = frozenset(dict(tree_flatten(block.trainable_parameters())))
        return run_again(run, block.parameters(), x, trained)

    def cast(self, x: Array) -> Array:
        """Cast to the dtype of activations."""
        return x.astype(self.dtype)

    def update(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Append to the KV cache, if any; return the keys and values to attend to."""
        return self.cache.update(layer, k, v) if self.cache else (k, v)

    def attend(
        self,
        attention: Callable[..., Array],
        q: Array,
        k: Array,
        v: Array,
        spec: AttentionSpec,
        slopes: Array | None,
        sinks: Array | None,
        site: int,
    ) -> Array:
        """Call a layer's attention in this pass, with its arguments in order."""
        return attention(q, k, v, spec, slopes, sinks, self, site)

    def relative_positions(self, T: int, S: int) -> Array:
        """Position of each query minus position of each key, which are the last S. (T, S)"""
        end = self.offset + T
        return mx.arange(self.offset, end)[:, None] - mx.arange(end - S, end)[None, :]

    def alibi_bias(self, T: int, S: int, slopes: Array) -> Array:
        """ALiBi's penalty, slope times distance, for each head, query and key. (H, T, S)"""
        return slopes[:, None, None] * mx.abs(self.relative_positions(T, S)).astype(slopes.dtype)

    def is_plain_causal(self, T: int, S: int, spec: AttentionSpec) -> bool:
        """Whether the mask is the plain causal triangle, for which kernels have a flag."""
        unlimited = spec.window_size is None or spec.window_size >= S
        return spec.causal and T == S and T > 1 and unlimited and self.segments is None

    def attention_mask(self, T: int, S: int, spec: AttentionSpec) -> Array | None:
        """True where a query attends to a key, (T, S) or (B, 1, T, S); None for everywhere."""
        key = T, S, spec.causal, spec.window_size
        if key not in self._masks:  # layers mostly share one mask
            self._masks[key] = self._make_mask(T, S, spec)
        return self._masks[key]

    def _make_mask(self, T: int, S: int, spec: AttentionSpec) -> Array | None:
        mask = None
        if spec.causal and T > 1:  # a single query is the last token: no key comes after it
            mask = self.relative_positions(T, S) >= 0
        if spec.window_size is not None and spec.window_size < S:
            near = mx.abs(self.relative_positions(T, S)) < spec.window_size
            mask = near if mask is None else mask & near
        if self.segments is not None:
            same = (self.segments[:, :, None] == self.segments[:, None, :])[:, None]
            mask = same if mask is None else mask & same
        return mask

    def has_dropout(self, rate: float) -> bool:
        """Whether dropout at this rate does anything in this pass."""
        return self.dropout_keys is not None and rate > 0

    def dropout(self, x: Array, rate: float, site: int) -> Array:
        """Zero a share `rate` of x and divide the rest by 1 - rate. (B, ...) -> same.

        The mask is a hash of (key of the row, site, element), so every backend drops the same
        elements and recomputation repeats them: specs/numerics.md.
        """
        if self.dropout_keys is None or rate <= 0:
            return x
        key = lowbias32(self.dropout_keys + mx.array(site * 0x85EBCA6B % 2**32, mx.uint32))  # (B,)
        element = mx.arange(x[0].size, dtype=mx.uint32) * mx.array(0x9E3779B9, mx.uint32)
        bits = lowbias32(element ^ key[:, None]).reshape(x.shape)
        keep = bits >= mx.array(int(rate * 2**32), mx.uint32)
        return mx.where(keep, x / (1 - rate), 0.0)

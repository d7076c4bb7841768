"""What the layers of one forward pass share: where it stands, what it remembers, its dropout."""

import mlx.core as mx

from hermes.numerics import positions
from hermes.spec import Rope


def lowbias32(x):
    """The hash of hermes.numerics.randomness.lowbias32, on uint32."""
    x = (x ^ (x >> 16)) * mx.array(0x7FEB352D, mx.uint32)
    x = (x ^ (x >> 15)) * mx.array(0x846CA68B, mx.uint32)
    return x ^ (x >> 16)


class Tables:
    """Rope's cosines and sines and ALiBi's slopes, one for each distinct rope."""

    def __init__(self, spec, dtype):
        self.angles, self.slopes = {}, {}
        for block in spec.layers:
            a = block.attention
            if isinstance(a.position_encoding, Rope):
                key = a.position_encoding, a.rotary_size
                if key not in self.angles:
                    pair = positions.rotary_table(*key, spec.max_seq_len)
                    self.angles[key] = tuple(mx.array(table, dtype) for table in pair)
            slopes = positions.alibi_slopes(a.num_heads)
            self.slopes[a.num_heads] = mx.array(slopes, dtype)


class Context:
    """One forward pass.

    segments, positions_in_document: (B, T) integers, or None where every row is one document.
    dropout_keys: (B,) uint32, or None for no dropout. recompute: blocks are run again in the
    backward pass (activation checkpointing).
    """

    def __init__(
        self,
        tables,
        dtype,
        cache=None,
        segments=None,
        positions_in_document=None,
        dropout_keys=None,
        recompute=False,
    ):
        self.tables, self.dtype, self.cache = tables, dtype, cache
        self.segments, self.positions_in_document = segments, positions_in_document
        self.dropout_keys, self.recompute = dropout_keys, recompute
        self._seen = {}

    @property
    def offset(self):
        """Tokens read before this pass."""
        return self.cache.length if self.cache else 0

    def positions(self, T):
        """Position of each token in its document. (T,) or (B, T)"""
        if self.positions_in_document is not None:
            return self.positions_in_document
        return mx.arange(self.offset, self.offset + T)

    def angles(self, spec, T):
        """Cosines and sines of rope for each token. (T, R/2) or (B, T, R/2)"""
        cos, sin = self.tables.angles[spec.position_encoding, spec.rotary_size]
        if self.positions_in_document is not None:
            return cos[self.positions_in_document], sin[self.positions_in_document]
        return cos[self.offset : self.offset + T], sin[self.offset : self.offset + T]

    def alibi_slopes(self, heads):
        """ALiBi's fixed slopes. (H,)"""
        return self.tables.slopes[heads]

    def run_block(self, layer, x):
        """A block on x, run again in the backward pass where memory is short."""
        if not self.recompute:
            return layer(x, self)

        def run(params, x):
            layer.update(params)
            return layer(x, self)

        return mx.checkpoint(run)(layer.parameters(), x)

    def cast(self, x):
        """To the type of activations."""
        return x.astype(self.dtype)

    def update(self, layer, k, v):
        """The keys and values that this layer's queries read."""
        return self.cache.update(layer, k, v) if self.cache else (k, v)

    def relative_positions(self, T, S):
        """How many places each key stands before each query. (T, S)"""
        return mx.arange(self.offset, self.offset + T)[:, None] - mx.arange(S)[None, :]

    def alibi_bias(self, T, S, slopes):
        """ALiBi's penalty of each head, query and key. (H, T, S)"""
        return slopes[:, None, None] * mx.abs(self.relative_positions(T, S)).astype(slopes.dtype)

    def is_plain_causal(self, T, S, spec):
        """Whether every query sees all keys up to its own, and T = S."""
        wide = spec.window_size is None or spec.window_size >= S
        return spec.causal and T == S and T > 1 and wide and self.segments is None

    def attention_mask(self, T, S, spec):
        """Which keys a query sees: (T, S) or (B, 1, T, S) of bool; None where it sees all."""
        key = T, S, spec.causal, spec.window_size
        if key not in self._seen:
            self._seen[key] = self._make_mask(T, S, spec)
        return self._seen[key]

    def _make_mask(self, T, S, spec):
        seen = None
        if spec.causal and T > 1:
            seen = self.relative_positions(T, S) >= 0
        if spec.window_size is not None and spec.window_size < S:
            near = mx.abs(self.relative_positions(T, S)) < spec.window_size
            seen = near if seen is None else seen & near
        if self.segments is not None:
            same = (self.segments[:, :, None] == self.segments[:, None, :])[:, None]
            seen = same if seen is None else seen & same
        return seen

    def has_dropout(self, rate):
        """Whether this pass drops anything at a site of this rate."""
        return self.dropout_keys is not None and rate > 0

    def dropout(self, x, rate, site):
        """Zero a share `rate` of x and divide the rest by 1 - rate, by the design's hash."""
        if not self.has_dropout(rate):
            return x
        key = lowbias32(self.dropout_keys + mx.array(site * 0x85EBCA6B % 2**32, mx.uint32))  # (B,)
        element = mx.arange(x[0].size, dtype=mx.uint32) * mx.array(0x9E3779B9, mx.uint32)
        bits = lowbias32(element ^ key[:, None]).reshape(x.shape)
        kept = bits >= mx.array(int(rate * 2**32), mx.uint32)
        return mx.where(kept, x / (1 - rate), 0.0)

"""State shared by the layers of one forward pass: positions, KV cache, masks and dropout."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy import ndarray as Array

from hermes.numerics.randomness import lowbias32
from hermes.spec import AttentionSpec, Rope
from hermes_numpy.cache import KVCache
from hermes_numpy.positions import alibi_slopes, rotary_angles


class Context:
    """One forward pass.

    segments: (B, T) integers, the document of each token, or None where every row is one document.
    dropout_keys: (B,) uint32, or None for no dropout.
    """

    def __init__(
        self,
        cache: KVCache | None = None,
        segments: Array | None = None,
        dropout_keys: Array | None = None,
    ):
        self.cache = cache
        self.segments = segments
        self.dropout_keys = dropout_keys

    @property
    def offset(self) -> int:
        """Tokens in the KV cache before this pass."""
        return self.cache.length if self.cache else 0

    def positions(self, T: int) -> Array:
        """Position of each token in its document. (T,) or (B, T)"""
        if self.segments is None:
            return self.offset + np.arange(T)
        positions = np.zeros(self.segments.shape, np.int64)
        for b, row in enumerate(self.segments):
            for t in range(1, T):
                positions[b, t] = positions[b, t - 1] + 1 if row[t] == row[t - 1] else 0
        return positions

    def angles(self, spec: AttentionSpec, T: int) -> tuple[Array, Array]:
        """Cosine and sine of RoPE's angles for each token and pair. (T, R/2) or (B, T, R/2)"""
        rope = spec.position_encoding
        assert isinstance(rope, Rope)
        length = self.cache.capacity if self.cache else T
        return rotary_angles(rope, spec.rotary_size, self.positions(T), length)

    def rotate(self, ops: Any, q: Array, k: Array, spec: AttentionSpec) -> tuple[Array, Array]:
        """Apply RoPE to queries and keys. (B, H, T, D), (B, K, T, D) -> same."""
        cos, sin = self.angles(spec, q.shape[2])
        return ops.rotate(q, cos, sin), ops.rotate(k, cos, sin)

    def alibi_slopes(self, heads: int) -> Array:
        """ALiBi's fixed slopes. (H,)"""
        return np.array(alibi_slopes(heads))

    def run_block(self, block: Callable, x: Array) -> Array:
        """Apply a block; a backend with gradients may recompute its activations here."""
        return block(x, self)

    def cast(self, x: Array) -> Array:
        """Cast to the dtype of activations: always float64 here, so nothing to do."""
        return x

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
        """Position of each query minus position of each key. (T, S)"""
        return (self.offset + np.arange(T))[:, None] - np.arange(S)[None, :]

    def attention_mask(self, T: int, S: int, spec: AttentionSpec) -> Array:
        """True where a query attends to a key: (T, S) or (B, 1, T, S)."""
        relative = self.relative_positions(T, S)
        mask = relative >= 0 if spec.causal else np.full(relative.shape, True)
        if spec.window_size is not None:
            mask = mask & (abs(relative) < spec.window_size)
        if self.segments is None:
            return mask
        same = self.segments[:, :, None] == self.segments[:, None, :]  # (B, T, T)
        return (mask & same)[:, None]

    def dropout(self, x: Array, rate: float, site: int) -> Array:
        """Zero a share `rate` of x and divide the rest by 1 - rate. (B, ...) -> same.

        Element e of row b is zeroed where hash(e * 0x9E3779B9 xor hash(key_b + site * 0x85EBCA6B))
        is below rate * 2^32, all modulo 2^32; hash is hermes.numerics.randomness.lowbias32.
        """
        if self.dropout_keys is None or rate == 0:
            return x
        key = lowbias32(self.dropout_keys + np.uint32(site * 0x85EBCA6B % 2**32))  # (B,)
        element = np.arange(x[0].size, dtype=np.uint32) * np.uint32(0x9E3779B9)
        bits = lowbias32(element[None, :] ^ key[:, None]).reshape(x.shape)
        return np.where(bits >= np.uint32(int(rate * 2**32)), x / (1 - rate), 0.0)

"""What the layers of one forward pass share: where it stands, what it remembers, its dropout."""

import numpy as np

from hermes.numerics.randomness import lowbias32
from hermes_numpy.ops import alibi_slopes, rotary_angles


class Context:
    """One forward pass. segments: (B, T) documents; dropout_keys: (B,), None for no dropout."""

    def __init__(self, cache=None, segments=None, dropout_keys=None):
        self.cache = cache
        self.segments = segments
        self.dropout_keys = dropout_keys

    @property
    def offset(self):
        """Tokens read before this pass."""
        return self.cache.length if self.cache else 0

    def indices(self, T):
        """Place of each query among the keys. (T,)"""
        return self.offset + np.arange(T)

    def positions(self, T):
        """Position of each token in its document. (T,) or (B, T)"""
        if self.segments is None:
            return self.indices(T)
        positions = np.zeros(self.segments.shape, np.int64)
        for b, row in enumerate(self.segments):
            for t in range(1, T):
                positions[b, t] = positions[b, t - 1] + 1 if row[t] == row[t - 1] else 0
        return positions

    def angles(self, spec, T):
        """Cosines and sines of rope for each token. (T, R/2) or (B, T, R/2)"""
        return rotary_angles(spec.position_encoding, spec.rotary_size, self.positions(T))

    def alibi_slopes(self, heads):
        """ALiBi's fixed slopes. (H,)"""
        return np.array(alibi_slopes(heads))

    def run_block(self, layer, x):
        """A block on x; where a backend recomputes in its backward pass, it does so here."""
        return layer(x, self)

    def cast(self, x):
        """To the type that a backend computes in; float64 here, always."""
        return x

    def update(self, layer, k, v):
        """The keys and values that this layer's queries read."""
        return self.cache.update(layer, k, v) if self.cache else (k, v)

    def attention_mask(self, relative_positions, spec):
        """Whether a query sees a key so far before it. (T, S) -> (T, S) or (B, 1, T, S)."""
        seen = relative_positions >= 0 if spec.causal else np.full(relative_positions.shape, True)
        if spec.window_size is not None:
            seen = seen & (abs(relative_positions) < spec.window_size)
        if self.segments is None:
            return seen
        same = self.segments[:, :, None] == self.segments[:, None, :]  # (B, T, T)
        return (seen & same)[:, None]

    def dropout(self, x, rate, site):
        """Zero a share `rate` of x and divide the rest by 1 - rate; the mask is the design's hash.

        Element e of row b goes where hash(e * 0x9E3779B9 xor hash(key_b + site * 0x85EBCA6B)) is
        below rate * 2^32. Source of the hash: hermes.numerics.randomness.lowbias32.
        """
        if self.dropout_keys is None or rate == 0:
            return x
        key = lowbias32(self.dropout_keys + np.uint32(site * 0x85EBCA6B % 2**32))  # (B,)
        element = np.arange(x[0].size, dtype=np.uint32) * np.uint32(0x9E3779B9)
        bits = lowbias32(element[None, :] ^ key[:, None]).reshape(x.shape)
        return np.where(bits >= np.uint32(int(rate * 2**32)), x / (1 - rate), 0.0)

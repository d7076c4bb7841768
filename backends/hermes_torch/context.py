"""What the layers of one forward pass share: where it stands, what it remembers, its dropout."""

import torch
from torch.utils.checkpoint import checkpoint

from hermes.numerics import positions
from hermes.spec import Rope


def signed(number):
    """A 32-bit pattern as the int32 that has it; torch's uint32 cannot multiply."""
    return (number & 0xFFFFFFFF) - (1 << 32) * ((number >> 31) & 1)


def lowbias32(x):
    """The hash of hermes.numerics.randomness.lowbias32, on int32 bit patterns."""
    x = x ^ ((x >> 16) & 0xFFFF)
    x = x * signed(0x7FEB352D)
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * signed(0x846CA68B)
    return x ^ ((x >> 16) & 0xFFFF)


class Tables:
    """Rope's cosines and sines and ALiBi's slopes on the device, one for each distinct rope."""

    def __init__(self, spec, device, dtype):
        self.angles, self.slopes = {}, {}
        for block in spec.layers:
            a = block.attention
            if isinstance(a.position_encoding, Rope):
                key = a.position_encoding, a.rotary_size
                if key not in self.angles:
                    pair = positions.rotary_table(*key, spec.max_seq_len)
                    self.angles[key] = tuple(
                        torch.from_numpy(table).to(device=device, dtype=dtype) for table in pair
                    )
            slopes = torch.from_numpy(positions.alibi_slopes(a.num_heads))
            self.slopes[a.num_heads] = slopes.to(device=device, dtype=dtype)


class Context:
    """One forward pass.

    segments, positions_in_document: (B, T) integers, or None where every row is one document.
    dropout_keys: (B,) int32, or None for no dropout. recompute: blocks are run again in the
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
        device = next(iter(self.tables.slopes.values())).device
        return torch.arange(self.offset, self.offset + T, device=device)

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
        return checkpoint(layer, x, self, use_reentrant=False) if self.recompute else layer(x, self)

    def cast(self, x):
        """To the type of activations."""
        return x.to(self.dtype)

    def update(self, layer, k, v):
        """The keys and values that this layer's queries read."""
        return self.cache.update(layer, k, v) if self.cache else (k, v)

    def relative_positions(self, T, S):
        """How many places each key stands before each query. (T, S)"""
        device = next(iter(self.tables.slopes.values())).device
        queries = torch.arange(self.offset, self.offset + T, device=device)
        return queries[:, None] - torch.arange(S, device=device)[None, :]

    def alibi_bias(self, T, S, slopes):
        """ALiBi's penalty of each head, query and key. (H, T, S)"""
        return slopes[:, None, None] * self.relative_positions(T, S).abs()

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
            near = self.relative_positions(T, S).abs() < spec.window_size
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
        key = lowbias32(self.dropout_keys + signed(site * 0x85EBCA6B))  # (B,)
        element = torch.arange(x[0].numel(), dtype=torch.int32, device=x.device)
        bits = lowbias32(element * signed(0x9E3779B9) ^ key[:, None]).reshape(x.shape)
        kept = (bits ^ signed(0x80000000)) >= int(rate * 2**32) - 2**31  # unsigned comparison
        return torch.where(kept, x / (1 - rate), 0.0)

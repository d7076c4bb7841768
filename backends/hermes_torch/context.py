"""State shared by the layers of one forward pass: positions, KV cache, masks and dropout."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor as Array
from torch.nn.attention.flex_attention import BlockMask
from torch.utils.checkpoint import checkpoint

from hermes.numerics import positions
from hermes.spec import Alibi, AttentionSpec, ModelSpec, Rope
from hermes_torch.cache import KVCache
from hermes_torch.fused_attention import (
    NO_KERNELS,
    Kernel,
    Kernels,
    choose_kernel,
    make_block_mask,
)
from hermes_torch.recomputation import Recompute, make_selective_contexts


def as_int32(bits: int) -> int:
    """The int32 with the lowest 32 bits of `bits`; torch cannot multiply uint32 tensors."""
    return (bits & 0xFFFFFFFF) - (1 << 32) * ((bits >> 31) & 1)


def lowbias32(x: Array) -> Array:
    """The hash hermes.numerics.randomness.lowbias32, on int32 bit patterns. (...) -> (...)."""
    x = x ^ ((x >> 16) & 0xFFFF)  # >> copies the sign bit of an int32: the mask clears the copies
    x = x * as_int32(0x7FEB352D)
    x = x ^ ((x >> 15) & 0x1FFFF)
    x = x * as_int32(0x846CA68B)
    return x ^ ((x >> 16) & 0xFFFF)


def is_kept(element: Array, key: Array, rate: float) -> Array:
    """Whether dropout keeps an element of a row with that key, both int32. -> bool, broadcast."""
    bits = lowbias32(element * as_int32(0x9E3779B9) ^ key)
    # Flipping the sign bit makes the int32 comparison order the bits as unsigned.
    return (bits ^ as_int32(0x80000000)) >= int(rate * 2**32) - 2**31


MAX_TABLES = 8  # of one rope: dynamic scaling has a table for each length


class PositionTables:
    """RoPE's cosines and sines, once per distinct rope, and ALiBi's slopes, on the device.

    Both are computed in float64 on the host, then cast: float32 angles are wrong at long contexts.
    Under longrope and dynamic the length of a row or a KV cache chooses a rope's table.
    """

    def __init__(self, spec: ModelSpec, device: torch.device, dtype: torch.dtype):
        self.device, self.dtype = device, dtype
        self.max_seq_len = spec.max_seq_len
        self.ropes: dict[tuple[Rope, int], None] = {}
        self.angles: dict[tuple[Rope, int, int], tuple[Array, ...]] = {}
        self.slopes: dict[int, Array] = {}
        for attention in spec.attentions:
            if isinstance(attention.position_encoding, Rope):
                self.ropes[attention.position_encoding, attention.rotary_size] = None
            slopes = torch.from_numpy(positions.alibi_slopes(attention.num_heads))
            self.slopes[attention.num_heads] = slopes.to(device=device, dtype=dtype)
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
            with torch.inference_mode(False):  # a learner may use what a decoder has made
                self.angles[key] = tuple(
                    torch.from_numpy(table).to(device=self.device, dtype=self.dtype)
                    for table in cos_sin
                )

    def get_angles(self, spec: AttentionSpec, length: int) -> tuple[Array, ...]:
        """Cosines and sines for rows or a KV cache of this length. (positions, R/2) each"""
        rope = spec.position_encoding
        assert isinstance(rope, Rope)
        chosen = positions.choose_table_length(rope, length, self.max_seq_len)
        return self.angles[rope, spec.rotary_size, chosen]


class Context:
    """One forward pass.

    segments, positions_in_document: (B, T) integers, or None where every row is one document.
    boundaries: (N + 1,) int32, where documents begin in the flattened batch and its end; None
    where no kernel asks for them. dropout_keys: (B,) int32, or None for no dropout. recompute: what
    of blocks is computed again in the backward pass (activation checkpointing). kernels: what
    attention may use.
    """

    def __init__(
        self,
        tables: PositionTables,
        dtype: torch.dtype,
        cache: KVCache | None = None,
        segments: Array | None = None,
        positions_in_document: Array | None = None,
        dropout_keys: Array | None = None,
        recompute: Recompute | None = None,
        boundaries: Array | None = None,
        kernels: Kernels = NO_KERNELS,
    ):
        self.tables, self.dtype, self.cache = tables, dtype, cache
        self.segments, self.positions_in_document = segments, positions_in_document
        self.dropout_keys, self.recompute = dropout_keys, recompute
        self.boundaries, self.kernels = boundaries, kernels
        self._masks: dict[tuple[int, int, bool, int | None], Array | None] = {}
        self._block_masks: dict[tuple[int, bool, int | None], BlockMask] = {}
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
        return torch.arange(self.offset, self.offset + T, device=self.tables.device)

    def angles(self, spec: AttentionSpec, T: int) -> tuple[Array, Array]:
        """Cosine and sine of RoPE's angles for each token and pair. (T, R/2) or (B, T, R/2)"""
        cos, sin = self.tables.get_angles(spec, self.cache.capacity if self.cache else T)
        if self.positions_in_document is not None:
            return cos[self.positions_in_document], sin[self.positions_in_document]
        return cos[self.offset : self.offset + T], sin[self.offset : self.offset + T]

    def pair_angles(self, spec: AttentionSpec, T: int) -> tuple[Array, Array]:
        """Cosines (cos, cos) and sines (-sin, sin) of both elements of each pair, for all heads.

        -> two arrays (1, T, 2, R/2) or (B, 1, T, 2, R/2)
        """
        rope = spec.position_encoding
        assert isinstance(rope, Rope)
        key = rope, spec.rotary_size
        if key not in self._paired:  # layers mostly share one rope
            cos, sin = self.angles(spec, T)
            cosines, sines = torch.stack([cos, cos], -2), torch.stack([-sin, sin], -2)
            self._paired[key] = cosines[..., None, :, :, :], sines[..., None, :, :, :]
        return self._paired[key]

    def rotate(self, ops: Any, q: Array, k: Array, spec: AttentionSpec) -> tuple[Array, Array]:
        """Apply RoPE to queries and keys. (B, H, T, D), (B, K, T, D) -> same."""
        if self.is_decoding:  # in fewer operations, of which no gradient is needed
            cos, sin = self.pair_angles(spec, q.shape[2])
            return ops.rotate_pairs(q, cos, sin), ops.rotate_pairs(k, cos, sin)
        cos, sin = self.angles(spec, q.shape[2])
        return ops.rotate(q, cos, sin), ops.rotate(k, cos, sin)

    def alibi_slopes(self, heads: int) -> Array:
        """ALiBi's fixed slopes. (H,)"""
        return self.tables.slopes[heads]

    def run_block(self, block: torch.nn.Module, x: Array) -> Array:
        """Apply a block. With `recompute` its backward pass computes activations again.

        Not reentrant: that variant needs an input with a gradient, and frozen embeddings have none.
        """
        match self.recompute:
            case None:
                return block(x, self)
            case "all":
                return checkpoint(block, x, self, use_reentrant=False)
            case "some":
                contexts = make_selective_contexts
        return checkpoint(block, x, self, use_reentrant=False, context_fn=contexts)

    def cast(self, x: Array) -> Array:
        """Cast to the dtype of activations."""
        return x.to(self.dtype)

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
        """Call a layer's attention in this pass, with its arguments in order.

        A cache may keep keys and values in a wider type than the pass has: they meet in that.
        """
        y = self._attend(attention, q.to(k.dtype), k, v, spec, slopes, sinks, site)
        return y.to(q.dtype)

    def _attend(
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
        """attend, in one type."""
        return attention(q, k, v, spec, slopes, sinks, self, site)

    def relative_positions(self, T: int, S: int) -> Array:
        """Position of each query minus position of each key, which are the last S. (T, S)"""
        end = self.offset + T
        queries = torch.arange(self.offset, end, device=self.tables.device)
        return queries[:, None] - torch.arange(end - S, end, device=self.tables.device)[None, :]

    def alibi_bias(self, T: int, S: int, slopes: Array) -> Array:
        """ALiBi's penalty, slope times distance, for each head, query and key. (H, T, S)"""
        return slopes[:, None, None] * self.relative_positions(T, S).abs()

    def is_plain_causal(self, T: int, S: int, spec: AttentionSpec) -> bool:
        """Whether the mask is the plain causal triangle, for which kernels have a flag."""
        unlimited = spec.window_size is None or spec.window_size >= S
        return spec.causal and T == S and T > 1 and unlimited and self.segments is None

    def choose_kernel(self, T: int, S: int, spec: AttentionSpec) -> Kernel:
        """What computes a layer's attention in this pass."""
        return choose_kernel(
            self.kernels,
            spec,
            T,
            has_segments=self.segments is not None,
            has_dropout=self.has_dropout(spec.dropout),
            is_whole=self.cache is None and T == S,
        )

    def prepare_masks(self, attentions: Iterable[AttentionSpec], T: int) -> None:
        """Make what the layers share before the first of them.

        A block that is run again makes none: what it leaves behind, torch.compile cannot put into
        one graph, and the first run's would be gone. Blocks that are compiled each by itself find
        the same as each other.
        """
        for spec in attentions:
            kernel = self.choose_kernel(T, T, spec)
            if kernel == "flex":
                self.block_mask(T, spec)
            elif kernel == "written out" or (kernel == "sdpa" and not self.is_flagged(T, spec)):
                self.attention_mask(T, T, spec)

    def is_flagged(self, T: int, spec: AttentionSpec) -> bool:
        """Whether the fused kernel takes a flag and no mask."""
        has_bias = isinstance(spec.position_encoding, Alibi)
        return not has_bias and self.is_plain_causal(T, T, spec)

    def block_mask(self, T: int, spec: AttentionSpec) -> BlockMask:
        """The mask as FlexAttention takes it."""
        key = T, spec.causal, spec.window_size
        if key not in self._block_masks:
            self._block_masks[key] = make_block_mask(T, spec, self.segments, self.tables.device)
        return self._block_masks[key]

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
            near = self.relative_positions(T, S).abs() < spec.window_size
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
        element = torch.arange(x[0].numel(), dtype=torch.int32, device=x.device)
        keep = is_kept(element, self._make_keys(site)[:, None], rate).reshape(x.shape)
        return torch.where(keep, x / (1 - rate), 0.0)

    def make_dropout(self, rate: float, site: int) -> Callable[[Array, Array], Array] | None:
        """`dropout` as a function of a row and an element of it: whether it is kept.

        None where nothing is dropped.
        """
        if not self.has_dropout(rate):
            return None
        key = self._make_keys(site)

        def keeps_at(b: Array, element: Array) -> Array:
            return is_kept(element, key[b], rate)

        return keeps_at

    def _make_keys(self, site: int) -> Array:
        """The hash's key of each row at a site. (B,)"""
        assert self.dropout_keys is not None
        return lowbias32(self.dropout_keys + as_int32(site * 0x85EBCA6B))

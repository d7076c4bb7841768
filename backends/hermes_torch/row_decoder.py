"""Decoding of rows that begin, advance and end each by itself."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Array

from hermes.numerics.row_layout import RowLayout, check_row_tensors, list_reads
from hermes.spec import AttentionSpec, Rope
from hermes_torch.cache import RowCache
from hermes_torch.context import Context, PositionTables
from hermes_torch.runtime import Runtime


class RowContext(Context):
    """A forward pass over rows of different lengths: each token has a position of its own."""

    def __init__(self, tables: PositionTables, dtype: torch.dtype, cache: RowCache):
        assert cache.current is not None, "the pass has begun"
        self.rows = cache
        self.current = cache.current
        device = tables.device
        positions = torch.from_numpy(self.current.positions).to(device)
        super().__init__(tables, dtype, positions_in_document=positions)
        self._token_positions = positions  # (B, T)
        self._ends = torch.from_numpy(self.current.after).to(device)
        self._firsts = {
            window: torch.from_numpy(first).to(device)
            for window, first in self.current.firsts.items()
        }
        self._window: int | None = None  # of the layer whose keys were updated last
        self._angles: dict[tuple[Rope, int], tuple[Array, Array]] = {}

    @property
    def is_decoding(self) -> bool:
        """Yes: the rows have a KV cache."""
        return True

    def prepare_masks(self, attentions: Iterable[AttentionSpec], T: int) -> None:
        """Nothing: each layer's mask follows from the keys that its cache has kept."""

    def angles(self, spec: AttentionSpec, T: int) -> tuple[Array, Array]:
        """Cosine and sine of RoPE's angles for each token and pair. (B, T, R/2)"""
        rope = spec.position_encoding
        assert isinstance(rope, Rope)
        key = rope, spec.rotary_size
        if key not in self._angles:
            self._angles[key] = self._gather_angles(spec)
        return self._angles[key]

    def _gather_angles(self, spec: AttentionSpec) -> tuple[Array, Array]:
        if len(set(self.current.planned)) == 1:
            self.tables.prepare(self.current.planned[0])
            cos, sin = self.tables.get_angles(spec, self.current.planned[0])
            return cos[self._token_positions], sin[self._token_positions]
        rows = []
        for positions, length in zip(self._token_positions, self.current.planned, strict=True):
            self.tables.prepare(length)
            rows.append([table[positions] for table in self.tables.get_angles(spec, length)])
        cos, sin = (torch.stack(table) for table in zip(*rows, strict=True))
        return cos, sin

    def update(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Append to the rows' cache; return the keys and values to attend to."""
        self._window = self.rows.layout.windows[layer]
        return self.rows.update(layer, k, v)

    def key_positions(self, S: int) -> Array:
        """Position of what is at each place of the rows' buffers. (B, 1, 1, S)"""
        places = torch.arange(S, device=self.tables.device)
        return self._firsts[self._window][:, None, None, None] + places

    def relative_positions(self, T: int, S: int) -> Array:
        """Position of each query minus position of each key. (B, 1, T, S)"""
        return self._token_positions[:, None, :, None] - self.key_positions(S)

    def is_plain_causal(self, T: int, S: int, spec: AttentionSpec) -> bool:
        """Whether the mask is the plain causal triangle: where all rows begin with this pass.

        What the padding of a row reads does not matter.
        """
        return super().is_plain_causal(T, S, spec) and not self.current.before.any()

    def _make_mask(self, T: int, S: int, spec: AttentionSpec) -> Array | None:
        window = spec.window_size
        kept = self.current.after - self.current.firsts[self._window]
        if T == 1 and (kept == S).all() and (window is None or window >= S):
            return None
        return self._compare_positions(T, S, spec)

    def _compare_positions(self, T: int, S: int, spec: AttentionSpec) -> Array:
        """The mask, whether some key is left out or not. (B, 1, T, S)"""
        window = spec.window_size
        mask = self.key_positions(S) < self._ends[:, None, None, None]
        relative = self.relative_positions(T, S)
        if spec.causal:
            mask = mask & (relative >= 0)
        return mask if window is None else mask & (relative.abs() < window)


class RowDecoder:
    """A KV cache over rows of different lengths."""

    def __init__(self, runtime: Runtime, rows: int, capacity: int):
        self._runtime = runtime
        self._layout = RowLayout(runtime.spec, rows, capacity)
        with torch.inference_mode():
            self._cache = self._make_cache()

    def _make_cache(self) -> RowCache:
        return RowCache(self._layout, self._runtime.dtype, self._runtime.device)

    @torch.inference_mode()
    def open_row(
        self, row: int, capacity: int, *, source: int | None = None, length: int = 0
    ) -> int:
        """Begin a row for `capacity` tokens, with `length` of another's if it can. -> as begun"""
        kept = self._layout.open(row, capacity, source, length)
        self._cache.open_row(row, row if source is None else source, kept)
        return kept

    @torch.inference_mode()
    def advance(
        self, rows: Sequence[int], tokens: NDArray[np.integer], counts: Sequence[int]
    ) -> NDArray[np.floating]:
        """Append counts[b] of tokens[b] to rows[b]; the logits after each row's last, (B, V)."""
        tokens = np.asarray(tokens)
        self._layout.check(rows, tokens, counts)
        logits: NDArray[np.floating] | None = None
        for which, part, left in list_reads(tokens, counts, self._layout.longest_read):
            found = self._read([rows[b] for b in which], part, left)
            if logits is None:
                logits = found if len(which) == len(tokens) else None
            if logits is None:
                logits = np.empty((len(tokens), found.shape[-1]), found.dtype)
            logits[which] = found
        assert logits is not None, "counts are from 1 on"
        return logits

    @torch.inference_mode()
    def read_row(self, row: int) -> dict[str, NDArray[np.floating]]:
        """What the cache has of a row, as `KeepsRows` says."""
        with self._runtime.apply_options():
            runtime, found = self._runtime, self._cache.read_row(row)
            return {
                name: np.array(runtime.to_numpy(part.to(runtime.dtype)))
                for name, part in found.items()
            }

    @torch.inference_mode()
    def write_row(
        self, row: int, capacity: int, length: int, tensors: Mapping[str, NDArray[np.floating]]
    ) -> bool:
        """Begin a row with what `read_row` gave, as `KeepsRows` says."""
        self.open_row(row, self._layout.capacity)
        kept = check_row_tensors(self.read_row(row), tensors, len(self._layout.windows))
        if not self._layout.restore(row, capacity, length, kept):
            self.open_row(row, self._layout.capacity)
            return False
        runtime = self._runtime
        with runtime.apply_options():
            own = {name: runtime.to_device(part, runtime.dtype) for name, part in tensors.items()}
            self._cache.write_row(row, own)
        return True

    def _read(
        self, rows: Sequence[int], tokens: NDArray[np.integer], counts: Sequence[int]
    ) -> NDArray[np.floating]:
        runtime = self._runtime
        current = self._layout.plan(rows, tokens, counts)
        with runtime.apply_options():
            self._cache.begin(current, runtime.device)
            ctx = runtime.use_context(RowContext(runtime.tables, runtime.dtype, self._cache))
            last = runtime.to_device(current.counts - 1)
            logits = runtime.compute_last_logits(runtime.to_device(tokens), ctx, last)
        self._layout.finish(current)
        return logits

"""Decoding of rows that begin, advance and end each by itself."""

from collections.abc import Callable, Mapping, Sequence

import mlx.core as mx
import numpy as np
from mlx.core import array as Array
from numpy.typing import NDArray

from hermes.interface import TokenChoice
from hermes.numerics.row_layout import RowLayout, RowPass, check_row_tensors, list_reads
from hermes.spec import AttentionSpec, Rope
from hermes_mlx.cache import RowCache
from hermes_mlx.context import Context, PositionTables
from hermes_mlx.device_memory import CLEAR_EVERY, clear_cache
from hermes_mlx.loss import upcast
from hermes_mlx.runtime import Runtime
from hermes_mlx.token_choice import choose_tokens


class RowContext(Context):
    """A forward pass over rows of different lengths: each token has a position of its own."""

    def __init__(self, tables: PositionTables, dtype: mx.Dtype, cache: RowCache):
        assert cache.current is not None, "the pass has begun"
        self.rows = cache
        self.current = cache.current
        positions = mx.array(self.current.positions)
        super().__init__(tables, dtype, positions_in_document=positions)
        self._token_positions = positions  # (B, T)
        self._ends = mx.array(self.current.after)
        self._firsts = {window: mx.array(first) for window, first in self.current.firsts.items()}
        self._window: int | None = None  # of the layer whose keys were updated last
        self._angles: dict[tuple[Rope, int], tuple[Array, Array]] = {}

    @property
    def is_decoding(self) -> bool:
        """Yes: the cache is the rows'."""
        return True

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
        cos, sin = (mx.stack(list(table)) for table in zip(*rows, strict=True))
        return cos, sin

    def update(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Append to the rows' cache; return the keys and values to attend to."""
        self._window = self.rows.layout.windows[layer]
        return self.rows.update(layer, k, v)

    def key_positions(self, S: int) -> Array:
        """Position of what is at each place of the rows' buffers. (B, 1, 1, S)"""
        places = mx.arange(S)
        return self._firsts[self._window][:, None, None, None] + places

    def relative_positions(self, T: int, S: int) -> Array:
        """Position of each query minus position of each key. (B, 1, T, S)"""
        return self._token_positions[:, None, :, None] - self.key_positions(S)

    def is_plain_causal(self, T: int, S: int, spec: AttentionSpec) -> bool:
        """Whether the mask is the plain causal triangle: where all rows begin with this pass.

        What the padding of a row reads does not matter.
        """
        return not self.current.before.any() and super().is_plain_causal(T, S, spec)

    def _make_mask(self, T: int, S: int, spec: AttentionSpec) -> Array | None:
        window = spec.window_size
        kept = self.current.after - self.current.firsts[self._window]
        if T == 1 and (kept == S).all() and (window is None or window >= S):
            return None
        mask = self.key_positions(S) < self._ends[:, None, None, None]
        relative = self.relative_positions(T, S)
        if spec.causal:
            mask = mask & (relative >= 0)
        return mask if window is None else mask & (mx.abs(relative) < window)


class RowDecoder:
    """A KV cache over rows of different lengths."""

    def __init__(self, runtime: Runtime, rows: int, capacity: int):
        self._runtime = runtime
        runtime.require_pass(rows, 1, capacity, rows, cache=(rows, capacity))
        self._layout = RowLayout(runtime.spec, rows, capacity)
        self._cache = RowCache(self._layout)
        self._read_tokens = 0  # of the longest row, since freed buffers were given back

    def open_row(
        self, row: int, capacity: int, *, source: int | None = None, length: int = 0
    ) -> int:
        """Begin a row for `capacity` tokens, with `length` of another's if it can. -> as begun"""
        kept = self._layout.open(row, capacity, source, length)
        with self._runtime.apply_options():
            self._cache.open_row(row, row if source is None else source, kept)
        return kept

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

    def read_row(self, row: int) -> dict[str, NDArray[np.floating]]:
        """What the cache has of a row, as `KeepsRows` says."""
        with self._runtime.apply_options():
            found = self._cache.read_row(row)
            return {name: np.array(self._runtime.to_numpy(part)) for name, part in found.items()}

    def write_row(
        self, row: int, capacity: int, length: int, tensors: Mapping[str, NDArray[np.floating]]
    ) -> bool:
        """Begin a row with what `read_row` gave, as `KeepsRows` says."""
        self.open_row(row, self._layout.capacity)
        self.advance([row], np.zeros((1, 1), np.int32), [1])  # which makes the buffers
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
        with self._runtime.apply_options():
            return self._runtime.to_numpy(self._begin_read(rows, tokens, counts))

    def _begin_read(
        self,
        rows: Sequence[int],
        tokens: NDArray[np.integer],
        counts: Sequence[int],
        ids: Array | None = None,
    ) -> Array:
        """The logits after each row's last token, not evaluated. -> (B, V)

        ids: (B, T) on the device, in place of tokens, of which then the shape counts alone.
        """
        runtime = self._runtime
        current = self._layout.plan(rows, tokens, counts)
        self._require_room(current)
        self._cache.begin(current)
        ctx = runtime.use_context(RowContext(runtime.tables, runtime.dtype, self._cache))
        ids = runtime.to_device(tokens) if ids is None else ids
        x = runtime.module.model(ids, ctx)  # (B, T, C)
        last = runtime.to_device(current.counts - 1)
        x = x[mx.arange(len(rows)), last]
        self._layout.finish(current)
        self._count_read(int(current.counts.max()))
        return runtime.module.compute_logits(x)

    def _require_room(self, current: RowPass) -> None:
        """Raise MemoryError where a pass goes beyond the limits of this process."""
        layout, rows = self._layout, len(current.rows)
        keys, tokens = int(current.after.max()), current.positions.shape[1]
        made = (0, 0) if self._cache.is_made else (layout.rows, layout.capacity)
        self._runtime.require_pass(rows, tokens, keys, rows, cache=made)

    def _count_read(self, count: int) -> None:
        """Give freed buffers back from time to time; count: new tokens of the longest row."""
        self._read_tokens += count
        if self._read_tokens >= CLEAR_EVERY:
            clear_cache(self._runtime.device)
            self._read_tokens = 0


class DeviceRowDecoder(RowDecoder):
    """A RowDecoder that chooses on its device: of a step the host reads an id a row."""

    def __init__(self, runtime: Runtime, rows: int, capacity: int):
        super().__init__(runtime, rows, capacity)
        self._fed_back = mx.zeros(rows, mx.int32)  # of each row, what was chosen last

    def choose(
        self,
        rows: Sequence[int],
        tokens: NDArray[np.integer],
        counts: Sequence[int],
        choices: Sequence[TokenChoice],
        uniforms: Sequence[float],
        vocab_size: int,
    ) -> NDArray[np.integer]:
        """`advance`, and the token that follows each row; as `ChoosesTokens` says."""
        tokens = np.asarray(tokens)
        self._layout.check(rows, tokens, counts)
        found = np.empty(len(rows), np.int32)
        for which, part, left in list_reads(tokens, counts, self._layout.longest_read):
            with self._runtime.apply_options():
                logits = upcast(self._begin_read([rows[b] for b in which], part, left))
                settings, drawn = [choices[b] for b in which], [uniforms[b] for b in which]
                found[which] = np.array(
                    choose_tokens(logits, settings, drawn, vocab_size, self._runtime.widest)
                )
        return found

    def begin_choice(
        self,
        rows: Sequence[int],
        tokens: NDArray[np.integer],
        choices: Sequence[TokenChoice],
        uniforms: Sequence[float],
        vocab_size: int,
    ) -> Callable[[], NDArray[np.integer]]:
        """Begin `choose` after one token more of each row; as `ChoosesAhead` says."""
        known, counts = np.maximum(tokens, 0)[:, None], [1] * len(rows)
        self._layout.check(rows, known, counts)
        runtime = self._runtime
        with runtime.apply_options():
            at, given = runtime.to_device(rows), runtime.to_device(tokens)
            ids = mx.where(given < 0, mx.maximum(self._fed_back[at], 0), given)[:, None]
            logits = upcast(self._begin_read(rows, known, counts, ids))
            chosen = choose_tokens(logits, choices, uniforms, vocab_size, runtime.widest)
            self._fed_back[at] = chosen
            mx.async_eval(chosen, self._fed_back)
        return lambda: np.array(chosen)

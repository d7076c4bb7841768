"""The KV caches of decoders: rows that advance together, and rows of different lengths."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor as Array

from hermes.numerics.row_layout import ROW_PARTS, Move, RowLayout, RowPass

Windows = tuple[int | None, ...]


def choose_cache_type(dtype: torch.dtype, device: torch.device) -> torch.dtype:
    """The type in which keys or values that a pass computes in `dtype` are kept.

    On a CPU float32 for those in 16 bits: attention of a single query takes 1.4 to 3 times as long
    in bfloat16, in which its kernel has no vectors (benchmarks/attention.py, torch 2.13).
    """
    return torch.float32 if device.type == "cpu" and dtype.itemsize == 2 else dtype


def allocate(new: Array, size: int) -> Array:
    """A buffer of `size` places a row for keys or values (B, K, T, D)."""
    shape = (*new.shape[:2], size, new.shape[3])
    return new.new_empty(shape, dtype=choose_cache_type(new.dtype, new.device))


class KVCache:
    """Keys and values of every layer, in buffers that are allocated once.

    Of a layer with a window the buffer has twice as many tokens; else `capacity`. windows: of each
    layer, None for all tokens.
    """

    def __init__(self, num_layers: int, capacity: int, windows: Windows | None = None):
        self.length = 0  # tokens of whole passes; the decoder adds to it after each
        self.capacity = capacity
        self._windows = windows or (None,) * num_layers
        self._kept = [0] * num_layers  # tokens in the buffer of a layer with a window
        self._layers: list[tuple[Array, Array] | None] = [None] * num_layers

    def update(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Append keys, (B, K, T, D), and values, (B, K, T, E); return the last in order.

        That is all so far, or with a window at least those that the first new token attends to.
        """
        window, buffers = self._windows[layer], self._layers[layer]
        size = self.capacity if window is None else 2 * window
        if buffers is None:
            buffers = self._layers[layer] = allocate(k, size), allocate(v, size)
        (keys, values), T = buffers, k.shape[2]
        start = self.length if window is None else self._kept[layer]
        if window is None or start + T <= size:
            self._kept[layer] = end = start + T
            keys[:, :, start:end] = k
            values[:, :, start:end] = v
            first = 0 if window is None else max(start - window + 1, 0)
            return keys[:, :, first:end], values[:, :, first:end]
        past = slice(max(start - window + 1, 0), start)
        k = torch.cat([keys[:, :, past], k.to(keys.dtype)], 2)
        v = torch.cat([values[:, :, past], v.to(values.dtype)], 2)
        self._kept[layer] = kept = min(window, k.shape[2])
        keys[:, :, :kept] = k[:, :, -kept:]
        values[:, :, :kept] = v[:, :, -kept:]
        return k, v


def move_tokens(buffer: Array, moves: Iterable[Move]) -> None:
    """Move tokens of rows to the beginning of their buffer. (rows, K, S, D)"""
    for move in moves:
        row, end = buffer[move.row], move.start + move.count
        row[:, : move.count] = row[:, move.start : end].clone()


class RowCache:
    """Keys and values of rows of different lengths, in buffers that are allocated here.

    So rows that do not fit in memory are refused before a text begins. A pass begins with `begin`;
    what it writes and reads is in `current`. dtype: that in which a pass computes keys and values.
    spare: places at the end of each row's buffer beyond those of the layout.
    """

    def __init__(
        self, layout: RowLayout, dtype: torch.dtype, device: torch.device, *, spare: int = 0
    ):
        self.layout = layout
        self.current: RowPass | None = None
        kept = choose_cache_type(dtype, device)
        self._layers: list[tuple[Array, Array] | None] = []
        for block, window in zip(layout.spec.layers, layout.windows, strict=True):
            one = block.attention
            if one is None:
                self._layers.append(None)
                continue
            shape = layout.rows, one.kv_heads, layout.get_size(window) + spare
            keys = torch.empty((*shape, one.head_size), dtype=kept, device=device)
            values = torch.empty((*shape, one.value_size), dtype=kept, device=device)
            self._layers.append((keys, values))
        # Only once all are allocated, since writing is what takes the memory. Zeros, since masked
        # places count 0 times what is there, which must be a number.
        for buffers in self._layers:
            for buffer in buffers or ():
                buffer.zero_()
        self._rows = torch.empty(0)
        self._index: dict[int | None, Array] = {}  # of where a pass of single tokens writes

    def begin(self, current: RowPass, device: torch.device) -> None:
        """Take up a pass."""
        self.current = current
        self._rows = torch.tensor(current.rows, device=device)
        self._index = {
            window: torch.from_numpy(places).to(device) for window, places in current.places.items()
        }

    def update(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Append the rows' keys, (B, K, T, D), and values, (B, K, T, E); return those kept.

        Of each row as many places as the longest row has: (B, K, S, D), (B, K, S, E).
        """
        current = self.current
        assert current is not None, "the pass has begun"
        window = self.layout.windows[layer]
        buffers, width = self._layers[layer], current.widths[window]
        assert buffers is not None, "the layer has attention"
        read = []
        for buffer, new in zip(buffers, (k, v), strict=True):
            move_tokens(buffer, current.moves[window])
            if new.shape[2] == 1:
                buffer[self._rows, :, self._index[window]] = new[:, :, 0].to(buffer.dtype)
            else:
                for b, (row_index, place, count) in enumerate(
                    zip(current.rows, current.places[window], current.counts, strict=True)
                ):
                    buffer[row_index, :, place : place + count] = new[b, :, :count]
            rows = self._rows if current.span is None else current.span
            read.append(buffer[:, :, :width][rows])
        return read[0], read[1]

    def open_row(self, row: int, source: int, length: int) -> None:
        """Copy what is kept of the first `length` tokens of a row, and clear what follows them."""
        for window, buffers in zip(self.layout.windows, self._layers, strict=True):
            for buffer in buffers or ():
                kept = self.layout.count_kept(window, row) if length else 0
                if row != source:
                    buffer[row, :, :kept] = buffer[source, :, :kept]
                buffer[row, :, kept:] = 0

    def read_row(self, row: int) -> dict[str, Array]:
        """What is kept of a row, by layer: keys, (K, S, D), and values, (K, S, E)."""
        found = {}
        for layer, buffers in enumerate(self._layers):
            kept = self.layout.count_kept(self.layout.windows[layer], row)
            for name, buffer in zip(ROW_PARTS, buffers or (), strict=False):
                found[f"layers.{layer}.{name}"] = buffer[row, :, :kept]
        return found

    def write_row(self, row: int, tensors: Mapping[str, Array]) -> None:
        """Take the last tokens of `tensors` as what is kept of a row, and clear what follows."""
        for layer, buffers in enumerate(self._layers):
            kept = self.layout.count_kept(self.layout.windows[layer], row)
            for name, buffer in zip(ROW_PARTS, buffers or (), strict=False):
                buffer[row, :, :kept] = tensors[f"layers.{layer}.{name}"][:, -kept:]
                buffer[row, :, kept:] = 0

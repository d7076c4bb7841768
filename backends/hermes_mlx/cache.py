"""The KV caches of decoders: rows that advance together, and rows of different lengths."""

from collections.abc import Mapping

import mlx.core as mx
from mlx.core import array as Array

from hermes.numerics.row_layout import ROW_PARTS, RowLayout, RowPass

Windows = tuple[int | None, ...]


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
            B, K, _, D = k.shape
            shape = (B, K, size)
            buffers = mx.zeros((*shape, D), k.dtype), mx.zeros((*shape, v.shape[-1]), v.dtype)
            self._layers[layer] = buffers
        (keys, values), T = buffers, k.shape[2]
        start = self.length if window is None else self._kept[layer]
        if window is None or start + T <= size:
            self._kept[layer] = end = start + T
            keys[:, :, start:end] = k
            values[:, :, start:end] = v
            first = 0 if window is None else max(start - window + 1, 0)
            return keys[:, :, first:end], values[:, :, first:end]
        past = slice(max(start - window + 1, 0), start)
        k = mx.concatenate([keys[:, :, past], k], axis=2)
        v = mx.concatenate([values[:, :, past], v], axis=2)
        self._kept[layer] = kept = min(window, k.shape[2])
        keys[:, :, :kept] = k[:, :, -kept:]
        values[:, :, :kept] = v[:, :, -kept:]
        return k, v


class RowCache:
    """Keys and values of rows of different lengths, in buffers that are allocated once.

    A pass begins with `begin`; what it writes and reads is in `current`.
    """

    def __init__(self, layout: RowLayout):
        self.layout = layout
        self.current: RowPass | None = None
        self._layers: list[tuple[Array, Array] | None] = [None] * len(layout.windows)
        self._rows = mx.array([])
        self._index: dict[int | None, Array] = {}  # of where a pass of single tokens writes

    @property
    def is_made(self) -> bool:
        """Whether the buffers are there, as they are after the first pass."""
        return any(buffers is not None for buffers in self._layers)

    def begin(self, current: RowPass) -> None:
        """Take up a pass."""
        self.current = current
        self._rows = mx.array(current.rows)
        self._index = {window: mx.array(places) for window, places in current.places.items()}

    def update(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Append the rows' keys, (B, K, T, D), and values, (B, K, T, E); return those kept.

        Of each row as many places as the longest row has: (B, K, S, D), (B, K, S, E).
        """
        current = self.current
        assert current is not None, "the pass has begun"
        window = self.layout.windows[layer]
        buffers = self._layers[layer]
        if buffers is None:
            shape = (self.layout.rows, k.shape[1], self.layout.get_size(window))
            # Zeros, since masked places count 0 times what is there, which must be a number.
            buffers = (
                mx.zeros((*shape, k.shape[-1]), k.dtype),
                mx.zeros((*shape, v.shape[-1]), v.dtype),
            )
            self._layers[layer] = buffers
        width = current.widths[window]
        read = []
        for buffer, new in zip(buffers, (k, v), strict=True):
            for move in current.moves[window]:
                end = move.start + move.count
                buffer[move.row, :, : move.count] = buffer[move.row, :, move.start : end]
            if new.shape[2] == 1:
                buffer[self._rows, :, self._index[window]] = new[:, :, 0]
            else:
                for b, (row_index, place, count) in enumerate(
                    zip(current.rows, current.places[window], current.counts, strict=True)
                ):
                    start, end = int(place), int(place + count)
                    buffer[row_index, :, start:end] = new[b, :, : int(count)]
            if current.span is None:
                read.append(mx.take(buffer[:, :, :width], self._rows, axis=0))
            else:
                read.append(buffer[current.span, :, :width])
        return read[0], read[1]

    def open_row(self, row: int, source: int, length: int) -> None:
        """Copy what is kept of the first `length` tokens of a row, and clear what follows them."""
        for window, buffers in zip(self.layout.windows, self._layers, strict=True):
            for buffer in buffers or ():
                kept = self.layout.count_kept(window, row) if length else 0
                if row != source and kept:
                    buffer[row, :, :kept] = buffer[source, :, :kept]
                buffer[row, :, kept:] = 0
                mx.eval(buffer)

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
                mx.eval(buffer)

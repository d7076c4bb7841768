"""The KV cache of a decoder."""

from collections.abc import Mapping

import numpy as np
from numpy import ndarray as Array

from hermes.numerics.row_layout import ROW_PARTS


class KVCache:
    """Keys and values of every layer, of at most `capacity` tokens."""

    def __init__(self, num_layers: int, capacity: int):
        self.num_layers, self.capacity = num_layers, capacity
        self.length = 0  # tokens of whole passes; the decoder adds to it after each
        self._layers: list[tuple[Array, Array] | None] = [None] * num_layers

    def update(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Append keys, (B, K, T, D), and values, (B, K, T, E); return all so far."""
        before = self._layers[layer]
        if before is not None:
            k = np.concatenate([before[0], k], axis=2)
            v = np.concatenate([before[1], v], axis=2)
        self._layers[layer] = k, v
        return k, v

    def copy(self, capacity: int, length: int) -> "KVCache":
        """A cache of the first `length` tokens."""
        new = KVCache(self.num_layers, capacity)
        new.length = length
        new._layers = [
            None if kept is None else (kept[0][:, :, :length], kept[1][:, :, :length])
            for kept in self._layers
        ]
        return new

    def read(self) -> dict[str, Array]:
        """Keys and values of the first row, by layer. (K, S, D), (K, S, E)"""
        return {
            f"layers.{layer}.{name}": part[0]
            for layer, kept in enumerate(self._layers)
            for name, part in zip(ROW_PARTS, kept or (), strict=False)
        }

    def write(self, length: int, tensors: Mapping[str, Array]) -> None:
        """Take `length` tokens as `read` gave them."""
        self.length = length
        for layer in range(self.num_layers):
            names = [f"layers.{layer}.{name}" for name in ROW_PARTS]
            if names[0] in tensors:
                keys, values = (tensors[name][None].astype(np.float64) for name in names)
                self._layers[layer] = keys, values

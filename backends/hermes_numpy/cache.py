"""The KV cache of a decoder."""

import numpy as np
from numpy import ndarray as Array


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

"""The KV cache of a decoder."""

import mlx.core as mx
from mlx.core import array as Array


class KVCache:
    """Keys and values of every layer, in buffers for `capacity` tokens that are allocated once."""

    def __init__(self, num_layers: int, capacity: int):
        self.length = 0  # tokens of whole passes; the decoder adds to it after each
        self.capacity = capacity
        self._layers: list[tuple[Array, Array] | None] = [None] * num_layers

    def update(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Append keys, (B, K, T, D), and values, (B, K, T, E); return all so far."""
        buffers = self._layers[layer]
        if buffers is None:
            B, K, _, D = k.shape
            shape = (B, K, self.capacity)
            buffers = mx.zeros((*shape, D), k.dtype), mx.zeros((*shape, v.shape[-1]), v.dtype)
            self._layers[layer] = buffers
        (keys, values), end = buffers, self.length + k.shape[2]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]

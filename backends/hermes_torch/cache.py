"""The KV cache of a decoder."""

from torch import Tensor as Array


class KVCache:
    """Keys and values of every layer, in buffers for `capacity` tokens that are allocated once."""

    def __init__(self, num_layers: int, capacity: int):
        self.length = 0  # tokens of whole passes; the decoder adds to it after each
        self.capacity = capacity
        self._layers: list[Array | None] = [None] * num_layers

    def update(self, layer: int, k: Array, v: Array) -> tuple[Array, Array]:
        """Append keys and values, (B, K, T, D); return all so far, (B, K, S, D)."""
        buffer = self._layers[layer]
        if buffer is None:
            B, K, _, D = k.shape
            buffer = self._layers[layer] = k.new_empty((2, B, K, self.capacity, D))
        end = self.length + k.shape[2]
        buffer[0, :, :, self.length : end] = k
        buffer[1, :, :, self.length : end] = v
        return buffer[0, :, :, :end], buffer[1, :, :, :end]

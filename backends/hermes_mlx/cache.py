"""The KV cache of a decoder."""

import mlx.core as mx


class KVCache:
    """Keys and values of the tokens already read, in room for `capacity` of them."""

    def __init__(self, layers, capacity):
        self.length, self._capacity = 0, capacity
        self._kept = [None] * layers

    def update(self, layer, k, v):
        """Add (B, K, T, D) keys and values; all those so far, (B, K, S, D)."""
        if self._kept[layer] is None:
            B, K, _, D = k.shape
            room = (B, K, self._capacity, D)
            self._kept[layer] = mx.zeros(room, k.dtype), mx.zeros(room, v.dtype)
        (keys, values), end = self._kept[layer], self.length + k.shape[2]
        keys[:, :, self.length : end] = k
        values[:, :, self.length : end] = v
        return keys[:, :, :end], values[:, :, :end]

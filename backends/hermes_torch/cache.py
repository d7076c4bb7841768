"""The KV cache of a decoder."""


class KVCache:
    """Keys and values of the tokens already read, in room for `capacity` of them."""

    def __init__(self, layers, capacity):
        self.length, self._capacity = 0, capacity
        self._kept = [None] * layers

    def update(self, layer, k, v):
        """Add (B, K, T, D) keys and values; all those so far, (B, K, S, D)."""
        if self._kept[layer] is None:
            B, K, _, D = k.shape
            self._kept[layer] = k.new_empty((2, B, K, self._capacity, D))
        kept, end = self._kept[layer], self.length + k.shape[2]
        kept[0, :, :, self.length : end] = k
        kept[1, :, :, self.length : end] = v
        return kept[0, :, :, :end], kept[1, :, :, :end]

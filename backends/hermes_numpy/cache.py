"""The KV cache of a decoder."""

import numpy as np


class KVCache:
    """Keys and values of the tokens already read, layer by layer."""

    def __init__(self, layers):
        self.length = 0
        self._kept = [None] * layers

    def update(self, layer, k, v):
        """Add (B, K, T, D) keys and values; all those so far, (B, K, S, D)."""
        if self._kept[layer] is not None:
            k = np.concatenate([self._kept[layer][0], k], axis=2)
            v = np.concatenate([self._kept[layer][1], v], axis=2)
        self._kept[layer] = k, v
        return k, v

"""Merging adapters into the weights that they amount to, in float64, one tensor at a time.

An adapter changes matrices `PATH.weight` by tensors of these names, which are PEFT's without its
prefix: lora_A.weight (rank, in) and lora_B.weight (out, rank); lora_embedding_A (rank, V) and
lora_embedding_B (C, rank) of embeddings; lora_magnitude_vector (DoRA); rows of some tokens; or
`PATH.weight` itself, in place of the model's. `hermes.numerics.lora` says which are trained here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from hermes.interface import Array, LazyTensors, Tensors
from hermes.numerics.params import list_parameters
from hermes.spec import ModelSpec

__all__ = ["DOWN", "MAGNITUDE", "TOKEN_ROWS", "UP", "Adapter", "merge_tensors"]

DOWN, UP = "lora_A.weight", "lora_B.weight"
EMBEDDING_DOWN, EMBEDDING_UP = "lora_embedding_A", "lora_embedding_B"
MAGNITUDE = "lora_magnitude_vector"
TOKEN_ROWS = "token_adapter.trainable_tokens_delta"  # whole rows, despite PEFT's name


@dataclass(frozen=True)
class Adapter:
    """What is added to a model.

    tensors: by the names above. scales: of each PATH with a low-rank update, its factor. token_ids:
    of each PATH with rows of tokens, the ids of those. ties_head: whether a tied head follows the
    embeddings; PEFT adapts the two apart.
    """

    tensors: Tensors
    scales: Mapping[str, float]
    token_ids: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    ties_head: bool = True

    def has_update(self, path: str) -> bool:
        """Whether the adapter changes PATH.weight."""
        return path in self.scales or path in self.token_ids or f"{path}.weight" in self.tensors

    def apply(self, path: str, weight: Array) -> Array:
        """PATH.weight with all that the adapter does to it, in the dtype of `weight`.

        W + scale B A; with DoRA each of its rows (columns, of an embedding in PEFT's form) gets the
        length that the magnitudes say. Then rows of tokens are put in.
        Sources: Hu et al. 2021, arXiv:2106.09685, eq. 3; Liu et al. 2024, arXiv:2402.09353, eq. 5.
        """
        dtype, merged = weight.dtype, weight
        if f"{path}.weight" in self.tensors:
            merged = self.tensors[f"{path}.weight"]
        if path in self.scales:
            wide = merged.astype(np.float64) + self.scales[path] * self._multiply(path)
            if f"{path}.{MAGNITUDE}" in self.tensors:
                axis = 0 if f"{path}.{EMBEDDING_DOWN}" in self.tensors else 1
                length = np.linalg.norm(wide, axis=axis, keepdims=True)
                # A row of zeros stays one.
                wide *= np.expand_dims(self._read(path, MAGNITUDE), axis) / (length + (length == 0))
            merged = wide
        if path in self.token_ids:
            merged = np.array(merged)
            merged[list(self.token_ids[path])] = self.tensors[f"{path}.{TOKEN_ROWS}"]
        return merged.astype(dtype)

    def _multiply(self, path: str) -> NDArray[np.float64]:
        """B A, in the shape of the matrix."""
        if f"{path}.{EMBEDDING_DOWN}" in self.tensors:
            return (self._read(path, EMBEDDING_UP) @ self._read(path, EMBEDDING_DOWN)).T
        return self._read(path, UP) @ self._read(path, DOWN)

    def _read(self, path: str, name: str) -> NDArray[np.float64]:
        return self.tensors[f"{path}.{name}"].astype(np.float64)


def merge_tensors(spec: ModelSpec, params: Tensors, adapter: Adapter) -> Tensors:
    """The model's tensors with the adapter merged in, each computed when it is read."""

    def make(name: str) -> Array:
        path = name.removesuffix(".weight")
        if path != name and adapter.has_update(path):
            return adapter.apply(path, params[name])
        return adapter.tensors[name] if name in adapter.tensors else params[name]

    return LazyTensors(list_parameters(spec), make)

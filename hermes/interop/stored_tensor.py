"""A tensor of another tool's file, assembled from ours, and ours extracted from it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from hermes.interface import Array, Tensors
from hermes.numerics.params import Tensor

__all__ = ["StoredTensor"]


@dataclass(frozen=True)
class StoredTensor:
    """A tensor of another layout, made of one or more of ours.

    parts: our names. groups: each part's rows are cut into so many equal groups, and the tensor is
    group 0 of every part, then group 1 of every part, and so on. transposed: stored as (in, out).
    rows_before: rows that nothing uses, before ours. rotary: for parts whose heads have their rows
    in another order there, where in a stored head each of ours is. columns: a vector is stored as
    rows of so many. pieces: the only part is stored as so many tensors, of which this is number
    `piece`.
    """

    name: str
    parts: tuple[str, ...]
    groups: int = 1
    transposed: bool = False
    rows_before: int = 0
    rotary: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    columns: int = 0
    piece: int = 0
    pieces: int = 1

    def compute_shape(self, table: Mapping[str, Tensor]) -> tuple[int, ...]:
        """Compute its shape from those of its parts."""
        rows = self.rows_before + sum(table[part].shape[0] for part in self.parts) // self.pieces
        shape = (rows, *table[self.parts[0]].shape[1:])
        if self.columns:
            return (rows // self.columns, self.columns)
        return shape[::-1] if self.transposed else shape

    def pack(self, params: Tensors) -> Array:
        """Assemble the stored tensor from ours."""
        arrays = [self._permute(params[part], part, np.argsort) for part in self.parts]
        if len(arrays) > 1:
            shares = [a.reshape(self.groups, -1, *a.shape[1:]) for a in arrays]
            joined = np.concatenate(shares, axis=1)
            whole = joined.reshape(-1, *joined.shape[2:])
        else:
            whole = np.split(arrays[0], self.pieces)[self.piece]
        if self.rows_before:
            unused = np.zeros((self.rows_before, *whole.shape[1:]), whole.dtype)
            whole = np.concatenate([unused, whole])
        if self.columns:
            return whole.reshape(-1, self.columns)
        return whole.T if self.transposed else whole

    def unpack(self, stored: Array, part: str, table: Mapping[str, Tensor]) -> Array:
        """Extract one of our tensors from the stored one, or from its pieces joined."""
        stored = stored.reshape(-1) if self.columns else stored
        whole = (stored.T if self.transposed else stored)[self.rows_before :]
        if len(self.parts) > 1:
            sizes = [table[p].shape[0] // self.groups for p in self.parts]
            start = sum(sizes[: self.parts.index(part)])
            shares = whole.reshape(self.groups, -1, *whole.shape[1:])
            size = table[part].shape[0] // self.groups
            whole = shares[:, start : start + size]
        ours = whole.reshape(table[part].shape)
        return np.ascontiguousarray(self._permute(ours, part, lambda order: order))

    def pack_rows(self, rows: Tensors) -> Array:
        """Assemble what has a row for each of the matrix's, such as an update's B."""
        return replace(self, transposed=False, columns=0).pack(rows)

    def unpack_rows(self, rows: Array, part: str, table: Mapping[str, Tensor]) -> Array:
        """Extract a part's from what has a row for each of the matrix's."""
        width = rows.shape[1:]
        shapes = {
            name: Tensor((table[name].shape[0], *width), "adapters", "zeros") for name in self.parts
        }
        return replace(self, transposed=False, columns=0).unpack(rows, part, shapes)

    def _permute(
        self, array: Array, part: str, choose: Callable[[NDArray[np.intp]], NDArray[np.intp]]
    ) -> Array:
        """Permute the rows of every head from their order there to ours, or back.

        choose: the order, or its inverse.
        """
        if part not in self.rotary:
            return array
        order = np.array(self.rotary[part])
        heads = array.reshape(-1, len(order), *array.shape[1:])
        return heads[:, choose(order)].reshape(array.shape)

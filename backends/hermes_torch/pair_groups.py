"""Pairs of a micro-batch in groups whose logits exist at a time: see chunked_loss.py.

Letters: N tokens to score, n those of one group, P pairs, k those of one group, T tokens of a row.
"""

from torch import Tensor as Array

from hermes.numerics.chunking import group_pairs, make_spans

__all__ = ["PairGroups", "PairLayout"]

PairLayout = tuple[Array, tuple[int, ...]]
"""Where the targets of pairs are, (N,) on the device, and the end of each pair's share of them."""


class PairGroups:
    """A micro-batch's P pairs in groups: as many as fit in a chunk, or one that takes several.

    indices: where targets count in the flattened batch, pair after pair, (N,). groups: of each
    group the spans of `indices` that are its chunks. shape: of the targets, (2 P, T). chunk_size:
    how many tokens a chunk has.
    """

    def __init__(self, shape: tuple[int, ...], pair_layout: PairLayout, chunk_size: int):
        self._shape, (self.indices, ends) = shape, pair_layout
        self._bounds = group_pairs(ends, chunk_size)  # (first pair, after the last) of each group
        begins = [ends[first - 1] if first else 0 for first, _ in self._bounds]
        ends = tuple(ends[last - 1] for _, last in self._bounds)
        self.groups = [
            make_spans(begin, end, chunk_size) for begin, end in zip(begins, ends, strict=True)
        ]

    def _get_token_indices(self, index: int) -> Array:
        spans = self.groups[index]
        return self.indices[spans[0][0] : spans[-1][1]]

    def select_rows(self, index: int, values: Array) -> Array:
        """The values of the group's rows, chosen then rejected. (2 P, ...) -> (2 k, ...)."""
        first, last = self._bounds[index]
        return values.unflatten(0, (2, -1))[:, first:last].flatten(0, 1)

    def sum_rows(self, index: int, logp: Array) -> Array:
        """Sum the group's tokens over each of its rows. (n,) -> (2, k)."""
        flat = logp.new_zeros(self._shape).flatten()
        batch = flat.index_copy(0, self._get_token_indices(index), logp).reshape(self._shape)
        return self.select_rows(index, batch).sum(-1).reshape(2, -1)

    def expand_to_tokens(self, index: int, values: Array) -> Array:
        """Give each token of the group the value of its row. (2 k,) -> (n,)."""
        first, last = self._bounds[index]
        by_row = values.new_zeros(2, self._shape[0] // 2)
        by_row[:, first:last] = values.reshape(2, -1)
        return by_row.flatten()[self._get_token_indices(index) // self._shape[1]]

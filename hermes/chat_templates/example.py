"""Examples to train on: token ids with a loss mask and weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.formatting import list_first

__all__ = ["Example", "describe_unread", "make_example"]


@dataclass(frozen=True)
class Example:
    """A tokenized training example. ids: (N,). loss_mask: (N,), True for targets; never the first.

    where: its place in a file, for error messages. part: 0, or its number among the examples of one
    conversation, whose first is 0. weights: (N,), float32, of targets in the loss, 0 for other
    tokens; None where each has 1.
    """

    ids: NDArray[np.int32]
    loss_mask: NDArray[np.bool_]
    where: str
    part: int = 0
    weights: NDArray[np.float32] | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def token_weights(self) -> NDArray[Any]:
        """The weight of each token in the loss, 0 for those that are no targets. (N,)"""
        return self.loss_mask if self.weights is None else self.weights


def make_example(
    ids: Sequence[int], each: Sequence[float], weight: float, where: str, part: int = 0
) -> Example:
    """Make an example of tokens and their weights, up to the last one that counts."""
    weights = np.array(each, np.float32) * np.float32(weight)
    weights[0] = 0  # the first token is predicted from nothing
    mask = weights > 0
    end = int(np.flatnonzero(mask)[-1]) + 1 if mask.any() else len(ids)
    kept = None if (weights[mask] == 1).all() else weights[:end]
    return Example(np.array(ids[:end], np.int32), mask[:end], where, part, kept)


def describe_unread(unread: Mapping[str, int]) -> list[str]:
    """The sentence that names fields which nothing read, with their counts; none where all were."""
    if not unread:
        return []
    shown = list_first([f"{name[:40]} ({count:,})" for name, count in unread.items()])
    return [f"fields that are not read: {shown}"]

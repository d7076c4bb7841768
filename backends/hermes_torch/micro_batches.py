"""A step's micro-batches on the device: what all of them have crosses in one copy of each kind.

Letters: A micro-batches, B rows, T tokens.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Array

from hermes.interface import Batch
from hermes_torch.runtime import Runtime

__all__ = ["iterate_micro_batches"]


def iterate_micro_batches(
    runtime: Runtime,
    batch: Batch,
    row_keys: NDArray[np.uint32] | None,
    factor: Array | None,
    *,
    everywhere: bool,
) -> Iterator[tuple[Any, ...]]:
    """The arguments of `Objective` for each micro-batch, in order.

    row_keys: of dropout, (A, B). factor: what losses are multiplied by, (). everywhere: whether all
    tokens get logits, as a compiled loss asks for, so that no shape changes.
    """
    A = len(batch.tokens)
    ids = runtime.to_device(np.stack([batch.tokens, batch.targets]))  # (2, A, B, T)
    segments, positions_in_document = runtime.load_segments(batch.segments)
    boundaries = runtime.load_boundaries(batch.segments)
    dropout_keys, reference, weights = None, None, None
    if row_keys is not None:
        dropout_keys = runtime.to_device(row_keys.view("int32"), torch.int32)
    if batch.pairs is not None:
        reference = runtime.to_device(batch.pairs.reference, runtime.master)
    if batch.weights is not None:
        weights = runtime.to_device(batch.weights, runtime.master)
    shared_layout = None  # of all micro-batches, which have the same shape
    if everywhere and batch.pairs is not None:
        shared_layout = runtime.make_pair_layout(batch.targets[0], everywhere=True)

    def choose_layout(a: int) -> Any:
        if everywhere:
            return shared_layout
        if batch.pairs is not None:
            return runtime.make_pair_layout(batch.targets[a])
        return runtime.find_targets(batch.targets[a])

    for a in range(A):
        yield (
            ids[0, a],
            ids[1, a],
            choose_layout(a),
            *(None if x is None else x[a] for x in (segments, positions_in_document)),
            *(None if x is None else x[a] for x in (dropout_keys, reference, weights)),
            batch.sources is not None,
            None if boundaries is None else boundaries[a],
            factor,
        )

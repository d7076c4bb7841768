"""Products of activations and weights, in bfloat16 by way of float32 where that is the faster."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
from mlx.core import array as Array

__all__ = ["multiply_by_float32", "project"]


class _Way(threading.local):
    by_float32 = False


_WAY = _Way()


@contextmanager
def multiply_by_float32(by_float32: bool) -> Iterator[None]:
    """A context in which products of bfloat16 are computed by float32's, or are not.

    MLX's CPU build multiplies bfloat16 by loops of its own, the borrowed BLAS float32 only. Both
    sum in float32 what are exact products, in another order, and round the sum once. A matrix is
    converted for each product, so that none is held twice.
    """
    before, _WAY.by_float32 = _WAY.by_float32, by_float32
    try:
        yield
    finally:
        _WAY.by_float32 = before


def project(x: Array, weight: Array) -> Array:
    """x W^T, in x's dtype. (..., in), (out, in) -> (..., out)."""
    weight = weight.astype(x.dtype)
    if _WAY.by_float32 and x.dtype == mx.bfloat16:
        return (x.astype(mx.float32) @ weight.astype(mx.float32).T).astype(x.dtype)
    return x @ weight.T

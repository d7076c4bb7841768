"""Products of activations and weights, on a borrowed BLAS in the form that is fastest there."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import mlx.core as mx
from mlx.core import array as Array

__all__ = ["TILE", "project", "suit_borrowed_blas"]

TILE = 16  # rows of activations that its products with the matrix on the left have in whole
MOST = 64  # rows up to which they are the faster


class _Way(threading.local):
    is_borrowed = False


_WAY = _Way()


@contextmanager
def suit_borrowed_blas(is_borrowed: bool) -> Iterator[None]:
    """A context in which products have the forms that a borrowed BLAS is fast at, or have not.

    MLX's CPU build multiplies bfloat16 by loops of its own, the borrowed BLAS float32 only. Both
    sum in float32 what are exact products, in another order, and round the sum once. A matrix is
    converted for each product, so that none is held twice.
    """
    before, _WAY.is_borrowed = _WAY.is_borrowed, is_borrowed
    try:
        yield
    finally:
        _WAY.is_borrowed = before


def project(x: Array, weight: Array) -> Array:
    """x W^T, in x's dtype. (..., in), (out, in) -> (..., out)."""
    weight = weight.astype(x.dtype)
    if not _WAY.is_borrowed:
        return x @ weight.T
    if x.dtype == mx.bfloat16:
        return _multiply(x.astype(mx.float32), weight.astype(mx.float32)).astype(x.dtype)
    return _multiply(x, weight)


def _multiply(x: Array, weight: Array) -> Array:
    """x W^T as (W x^T)^T for whole tiles of single tokens, which threads share better. The result
    is then held by columns, which the operations that follow in a step need not change.
    """
    rows = len(x)
    is_step = x.ndim == 2 or (x.ndim == 3 and x.shape[1] == 1)
    if not is_step or rows % TILE or rows > MOST:
        return x @ weight.T
    y = (weight @ x.reshape(rows, -1).T).T
    return y if x.ndim == 2 else y[:, None]

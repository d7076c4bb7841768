"""The products of the loss with a head's matrix, in memory that a CPU's BLAS is fastest with.

As operators of our own, because torch.compile has neither: it gives every row of a result the
length that the shape says, and what is added to in place it copies first, once for each chunk.

Letters: n tokens of a chunk, C hidden size, V vocabulary.
"""

import torch
from torch import Tensor as Array

__all__ = ["add_product", "multiply_aligned", "wants_aligned_rows"]

LINE = 16  # float32 numbers in 64 bytes, which processors load and store at once
FEWEST_ROWS = 16  # of x: fewer have a small result, which is copied sooner than it is aligned


def wants_aligned_rows(x: Array, weight: Array) -> bool:
    """Whether a compiled x W^T without gradients is faster into rows that are padded.

    That of a CPU in float32, whose rows do not fill whole cache lines: MKL writes 100 GFLOP/s into
    rows of 50,257 numbers and 127 into rows that are 50,272 apart (160 tokens, C 768, AVX-512).
    """
    return (
        torch.compiler.is_compiling()
        and x.ndim == 2
        and len(x) >= FEWEST_ROWS
        and len(weight) % LINE != 0
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and not torch.is_grad_enabled()
    )


def _allocate(x: Array, weight: Array) -> Array:
    """A result of x W^T that is not computed yet. (n, C), (V, C) -> (n, V)."""
    rows, columns = len(x), len(weight)
    return x.new_empty(rows, -columns % LINE + columns)[:, :columns]


@torch.library.custom_op("hermes_torch::multiply_aligned", mutates_args=())
def multiply_aligned(x: Array, weight: Array) -> Array:
    """x W^T, each row of which begins at a cache line. (n, C), (V, C) -> (n, V)."""
    return torch.mm(x, weight.T, out=_allocate(x, weight))


multiply_aligned.register_fake(_allocate)


@torch.library.custom_op("hermes_torch::add_product", mutates_args=("total",))
def _add_product(total: Array, a: Array, b: Array, value: Array) -> Array:
    total.addmm_(a, b)
    return value.clone()


@_add_product.register_fake
def _(total: Array, a: Array, b: Array, value: Array) -> Array:
    return torch.empty_like(value)


def add_product(total: Array, a: Array, b: Array, value: Array) -> Array:
    """Add a b to `total`, in place: within the product, where the types are the same.

    (p, q), (p, n), (n, q), (). Products of bfloat16 are rounded to it and then added in float32.
    Returns `value`, so that what needs it comes after the sum: torch.compile would leave the last
    sum to the backward pass and keep a chunk's logits until then.
    """
    if total.dtype != a.dtype:
        total += a @ b
    elif torch.compiler.is_compiling() and total.device.type == "cpu":
        return _add_product(total, a, b, value)
    else:
        total.addmm_(a, b)
    return value

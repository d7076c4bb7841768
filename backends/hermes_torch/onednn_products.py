"""Products of float32 by oneDNN, on processors where it is faster than the BLAS that torch has.

MKL, which torch is built with, keeps its best kernels for Intel's processors: on two cores of an
AMD EPYC with AVX-512 a block's products x W^T run at 143 to 185 GFLOP/s in MKL and at 156 to 213 in
oneDNN, the gradients d W of x at 173 to 188 and 205 to 218, and those of W, d^T x, no faster
(`benchmarks/products.py`). With AVX2 alone oneDNN is the slower one there, too.

Letters: I numbers in, O numbers out.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor as Array

__all__ = ["FASTER", "apply_matrix", "has_faster_products", "multiply_by_onednn", "wants_onednn"]

FEWEST_PRODUCTS = 1 << 24  # of two numbers: below, the price of a call is seen


def has_faster_products() -> bool:
    """Whether this processor multiplies float32 faster by oneDNN than by torch's BLAS."""
    # Not every torch that we take tells what it knows of the processor.
    facts: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return (
        str(facts.get("cpu_name", "")).startswith("AMD")
        and bool(facts.get("avx512_f"))
        and torch.backends.mkl.is_available()
        and torch.backends.mkldnn.is_available()
    )


# Known from the start: torch.compile would not take the question into a graph.
FASTER = has_faster_products()


def wants_onednn(x: Array, weight: Array) -> bool:
    """Whether x W^T is oneDNN's work. (..., I), (O, I)"""
    return (
        FASTER
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and x.numel() * len(weight) >= FEWEST_PRODUCTS
    )


def apply_matrix(x: Array, weight: Array, bias: Array | None = None) -> Array:
    """x W^T + b by the faster of the two. (..., I), (O, I), (O,) -> (..., O)"""
    if not wants_onednn(x, weight):
        return F.linear(x, weight, bias)
    y = multiply_by_onednn(x, weight)
    return y if bias is None else y + bias


@torch.library.custom_op("hermes_torch::multiply_by_onednn", mutates_args=())
def multiply_by_onednn(x: Array, weight: Array) -> Array:
    """x W^T, for float32 on a CPU; W in any layout. (..., I), (O, I) -> (..., O)

    An operator of our own: torch.compile takes oneDNN's for packed weights alone.
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, None, "none", [], "")


@multiply_by_onednn.register_fake
def _(x: Array, weight: Array) -> Array:
    return x.new_empty(*x.shape[:-1], len(weight))


def _save_inputs(ctx: Any, inputs: tuple[Array, Array], output: Array) -> None:
    ctx.save_for_backward(*inputs)


def _compute_gradients(ctx: Any, d: Array) -> tuple[Array | None, Array | None]:
    x, weight = ctx.saved_tensors
    x_needs_grad, weight_needs_grad = ctx.needs_input_grad
    dx = apply_matrix(d, weight.T) if x_needs_grad else None
    # MKL's: oneDNN would copy d with its rows as columns first.
    dw = d.flatten(0, -2).T @ x.flatten(0, -2) if weight_needs_grad else None
    return dx, dw


multiply_by_onednn.register_autograd(_compute_gradients, setup_context=_save_inputs)

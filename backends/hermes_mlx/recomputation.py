"""Activation checkpointing: a block is run again in the backward pass, in one order.

MLX evaluates a lazy graph in an order of its own: mx.checkpoint lets it run blocks again before the
gradients of their outputs are there, and the gradients of their matrices at the very end, so that
nearly all activations exist at once. Here both wait for each other, and one block's exist.
"""

from collections.abc import Callable
from typing import Any, cast

import mlx.core as mx
from mlx.core import array as Array
from mlx.utils import tree_flatten, tree_unflatten

Block = Callable[[dict, Array], Array]


def run_again(block: Block, params: dict, x: Array, trained: frozenset[str]) -> Array:
    """block(params, x), of which only params and x are kept for the backward pass.

    trained: the names of the parameters whose gradients are wanted. The block runs again once the
    gradient of its output is there, and the gradient of x is there once those of `trained` are, so
    the block before waits for them. Source: Chen et al. 2016, arXiv:1604.06174.
    """

    @mx.custom_function
    def forward(params: dict, x: Array) -> Array:
        return block(params, x)

    @forward.vjp
    def backward(primals: Any, cotangent: Array, _: Array) -> tuple[Any, Array]:
        params, x = primals
        flat = dict(tree_flatten(params))

        def compute(*arrays: Array) -> Array:
            *tensors, x = arrays
            return block(tree_unflatten(list(zip(flat, tensors, strict=True))), x)

        given = mx.depends([*flat.values(), x], [cotangent])
        *grads, dx = mx.vjp(compute, given, [cotangent])[1]
        wanted = [grad for name, grad in zip(flat, grads, strict=True) if name in trained]
        (dx,) = mx.depends([dx], wanted)
        return tree_unflatten(list(zip(flat, grads, strict=True))), dx

    return cast(Array, forward(params, x))

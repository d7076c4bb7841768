"""Matrices that the same input is multiplied by, held as one: one product for all of them.

q, k and v of an attention, up and gate of a feed-forward network. Each stays a parameter of its
own, a view of its rows of the joined matrix, so that optimizers and checkpoints know of none.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor as Array
from torch.autograd.function import once_differentiable
from torch.nn import Module

from hermes_torch.onednn_products import apply_matrix

GROUPS = (("q_proj", "k_proj", "v_proj"), ("up_proj", "gate_proj"))


def join_weights(module: Module, linear_class: type[Module], *, sharded: bool) -> None:
    """Join the matrices of every group whose members are all of `linear_class` itself.

    Those of a sharded module are joined in each pass, once they are gathered: the same sums.
    An adapted layer is of another class: its product is another. One group at a time is held twice.
    """
    for members in list_groups(module, linear_class):
        _join(members, sharded)


def list_groups(module: Module, linear_class: type[Module]) -> list[list[Any]]:
    """The Linears of every group that can be joined: all of `linear_class` itself, and alike."""
    found = []
    for part in module.modules():
        if hasattr(part, "o_proj") or hasattr(part, "down_proj"):
            for names in GROUPS:
                members: list[Any] = [getattr(part, name, None) for name in names]
                if all(type(one) is linear_class for one in members):
                    kinds = {(one.weight.dtype, one.bias is None) for one in members}
                    found += [members] if len(kinds) == 1 else []
    return found


@torch.no_grad()
def _join(members: Sequence[Any], sharded: bool) -> None:
    weights = [one.weight for one in members]
    members[0].leads_product = True
    if sharded:
        return
    joined = torch.cat([w.detach() for w in weights])
    for one, rows in zip(members, joined.split([len(w) for w in weights]), strict=True):
        one.weight.data = rows
    members[0].joined = joined


def project_apart(x: Array, *linears: Any) -> tuple[Any, ...]:
    """Each Linear's output, None of None. (..., in) -> (..., out) of each."""
    return tuple(None if linear is None else linear(x) for linear in linears)


def project_joined(x: Array, *linears: Any) -> tuple[Array, ...]:
    """project_apart by one product, where the matrices are joined."""
    first = linears[0]
    if not first.leads_product:
        return project_apart(x, *linears)
    joined, bias = first.joined, first.joined_bias
    if joined is not None and joined.is_mkldnn:  # packed by weight_layout.py
        packed: tuple[Array, ...] = multiply_packed(x, joined, bias).split_with_sizes(
            first.joined_sizes, -1
        )
        return packed
    weights = [linear.weight for linear in linears]
    if bias is None and first.bias is not None:
        bias = torch.cat([linear.bias for linear in linears]).to(x.dtype)
    if torch.is_grad_enabled() and any(w.requires_grad for w in weights):
        y = JoinedProduct.apply(x, bias, joined, *weights)
    else:
        y = apply_matrix(x, _get_matrix(joined, weights, x), bias)
    parts: tuple[Array, ...] = y.split([len(w) for w in weights], -1)
    return parts


def multiply_packed(x: Array, weight: Array, bias: Array | None) -> Array:
    """x W^T + b of a matrix in oneDNN's layout. (..., in) -> (..., out)"""
    # A private operator, the one that torch.compile emits for a packed weight: F.linear takes no
    # such weight beside a plain x.
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


def _get_matrix(joined: Array | None, weights: Sequence[Array], x: Array) -> Array:
    return (torch.cat(list(weights)) if joined is None else joined).to(x.dtype)


class JoinedProduct(torch.autograd.Function):
    """x W^T + b of joined matrices, whose gradients are rows of one. (..., in) -> (..., out)."""

    @staticmethod
    def forward(
        ctx: Any, x: Array, bias: Array | None, joined: Array | None, *weights: Array
    ) -> Array:
        """joined: what the weights are views of, without a gradient of its own; None if sharded.

        What is gathered is freed after a block and gathered again, so no copy of it is kept.
        """
        matrix = _get_matrix(joined, weights, x)
        ctx.sizes, ctx.dtype = [len(w) for w in weights], weights[0].dtype
        ctx.save_for_backward(x, *(weights if joined is None else (matrix,)))
        return apply_matrix(x, matrix, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d: Array) -> tuple[Array | None, ...]:
        """Gradients of x, of b, of nothing, and of each weight that wants one."""
        x, *kept = ctx.saved_tensors
        matrix = _get_matrix(None, kept, x) if len(kept) > 1 else kept[0]
        x_needs_grad, bias_needs_grad, _, *needed = ctx.needs_input_grad
        flat = d.flatten(0, -2)
        dx = apply_matrix(d, matrix.T) if x_needs_grad else None
        db = flat.sum(0) if bias_needs_grad else None
        dw = (flat.T @ x.flatten(0, -2)).to(ctx.dtype).split(ctx.sizes)
        return (
            dx,
            db,
            None,
            *(one if wants else None for one, wants in zip(dw, needed, strict=True)),
        )

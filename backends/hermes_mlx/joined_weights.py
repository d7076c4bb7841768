"""Matrices that the same input is multiplied by, held as one: one product for all of them.

q, k and v of an attention, up and gate of a feed-forward network, of models that are not trained: a
step of decoding costs as much by the number of its operations as by what they do. Each matrix stays
a parameter of its own, a view of its rows of the joined one.
"""

from collections.abc import Sequence
from typing import Any

import mlx.core as mx
from mlx.core import array as Array
from mlx.nn import Module

from hermes_mlx.products import project

GROUPS = (("q_proj", "k_proj", "v_proj"), ("up_proj", "gate_proj"))


def join_weights(module: Module, linear_class: type[Module], *, by_columns: bool) -> None:
    """Join the matrices of every group whose members are all of `linear_class` itself.

    An adapted layer is of another class: its product is another. by_columns: columns of the joined
    matrix are contiguous. One group at a time is held twice.
    """
    for part in module.modules():
        if "o_proj" in part or "down_proj" in part:
            for names in GROUPS:
                members = [part.get(name) for name in names]
                if all(type(one) is linear_class for one in members):
                    _join(members, by_columns)


def _join(members: Sequence[Any], by_columns: bool) -> None:
    weights = [one.weight for one in members]
    if len({(one.weight.dtype, one.bias is None) for one in members}) > 1:
        return
    if by_columns:
        joined = mx.concatenate([w.T for w in weights], axis=1).T
    else:
        joined = mx.concatenate(weights)
    ends = list_ends(weights)
    parts = mx.split(joined, ends)
    mx.eval(joined, parts)
    for one, rows in zip(members, parts, strict=True):
        one.weight = rows
    first = members[0]
    # Names with an underscore are no parameters for mlx.nn.
    first._joined, first._ends = joined, ends
    if first.bias is not None:
        first._joined_bias = mx.concatenate([one.bias for one in members])
        mx.eval(first._joined_bias)


def list_ends(weights: Sequence[Array]) -> list[int]:
    """Where the rows of each matrix but the last end in the joined one."""
    ends = [0]
    for weight in weights[:-1]:
        ends.append(ends[-1] + len(weight))
    return ends[1:]


def project_apart(x: Array, *linears: Any) -> tuple[Any, ...]:
    """Each Linear's output, None of None. (..., in) -> (..., out) of each."""
    return tuple(None if linear is None else linear(x) for linear in linears)


def project_joined(x: Array, *linears: Any) -> tuple[Array, ...]:
    """project_apart by one product, where the matrices are joined."""
    first = linears[0]
    joined, bias = first.get("_joined"), first.get("_joined_bias")
    if joined is None:
        return project_apart(x, *linears)
    y = project(x, joined)
    y = y if bias is None else y + bias.astype(x.dtype)
    return tuple(mx.split(y, first["_ends"], axis=-1))

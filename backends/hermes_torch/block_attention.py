"""Causal attention in bfloat16 in blocks of queries, on processors where that is faster.

torch's fused kernel for CPUs multiplies bfloat16 by MKL, which keeps its best kernels for Intel's
processors. Here a block's scores are products of oneDNN, and the work between products is what
torch's compiler makes of it, so only compiled passes use it (`benchmarks/attention.py`).

oneDNN sums in float32 and rounds to the 8 bits of bfloat16, too few for scores that are far from
zero. So what is rounded is their distance from a number of each row, near the scores that count:
in the forward pass the greatest score, in the backward pass the mean under the probabilities. A
product takes it off by columns that both factors get. Probabilities are then off by little more
than when they are rounded to bfloat16 themselves, as the fused kernel rounds them, too.

Letters: B rows, T queries and keys, H query heads, K key/value heads, D head size, E that of
values, N heads of all rows, S keys up to a block's last query.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor as Array

__all__ = ["attend_in_blocks", "takes_rows"]

BLOCK = 128  # queries
LEAST_QUERIES = 2 * BLOCK  # of a row: of fewer, blocks leave nothing out
MOST_QUERIES = 8 * BLOCK  # of more, the fused kernel is as fast and keeps no scores
MOST_BYTES = 16 << 20  # of the scores of one block, of all rows that are computed at once
MOST_COMPILED = 64  # sets of shapes
EXTRA = 2  # columns that a factor gets
FARTHEST = -80.0  # exponents below give no normal number of float32, and are slow

Function = Callable[..., tuple[Array, ...]]
Layout = tuple[tuple[int, ...], tuple[int, ...], torch.dtype]


def has_faster_blocks() -> bool:
    """Whether this processor is faster with blocks than with torch's fused kernel."""
    # Not every torch that we take tells what it knows of the processor.
    facts: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return (
        str(facts.get("cpu_name", "")).startswith("AMD")
        and bool(facts.get("avx512_bf16"))
        and not facts.get("amx_bf16")
        and torch.backends.mkldnn.is_available()
    )


FASTER = has_faster_blocks()


def takes_rows(T: int) -> bool:
    """Whether causal rows of this length are faster in blocks, on a processor that has them."""
    return LEAST_QUERIES <= T <= MOST_QUERIES


@torch.library.custom_op("hermes_torch::attend_in_blocks", mutates_args=())
def attend_in_blocks(q: Array, k: Array, v: Array, scale: float) -> tuple[Array, Array]:
    """Causal attention, and what its backward pass reads of each row of scores.

    q (B, H, T, D), k (B, K, T, D), v (B, K, T, E) -> (B, H, T, E) and, in float32, (B, H, T, 2):
    the mean score of a query under its probabilities, and the log of their sum less that mean.
    """
    y, rows = _run_by_rows(_attend_forward, (q, k, v), scale)
    return y.swapaxes(1, 2), rows


@attend_in_blocks.register_fake
def _(q: Array, k: Array, v: Array, scale: float) -> tuple[Array, Array]:
    B, H, T, _ = q.shape
    y = q.new_empty(B, T, H, v.shape[3]).swapaxes(1, 2)
    return y, q.new_empty(B, H, T, 2, dtype=torch.float32)


@torch.library.custom_op("hermes_torch::attend_in_blocks_backward", mutates_args=())
def attend_in_blocks_backward(
    dy: Array, q: Array, k: Array, v: Array, y: Array, rows: Array, scale: float
) -> tuple[Array, Array, Array]:
    """The gradients of attend_in_blocks, whose probabilities are computed again."""
    dq, dk, dv = _run_by_rows(_attend_backward, (dy, q, k, v, y, rows), scale)
    return dq.swapaxes(1, 2), dk.swapaxes(1, 2), dv.swapaxes(1, 2)


@attend_in_blocks_backward.register_fake
def _(
    dy: Array, q: Array, k: Array, v: Array, y: Array, rows: Array, scale: float
) -> tuple[Array, Array, Array]:
    dq, dk, dv = (torch.empty_like(x.swapaxes(1, 2).contiguous()).swapaxes(1, 2) for x in (q, k, v))
    return dq, dk, dv


def _save_inputs(ctx: Any, inputs: tuple[Any, ...], output: tuple[Array, Array]) -> None:
    q, k, v, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, *output)


def _compute_gradients(ctx: Any, dy: Array, _: Array) -> tuple[Array | None, ...]:
    return (*attend_in_blocks_backward(dy, *ctx.saved_tensors, ctx.scale), None)


attend_in_blocks.register_autograd(_compute_gradients, setup_context=_save_inputs)


def _run_by_rows(function: Function, tensors: tuple[Array, ...], scale: float) -> list[Array]:
    """Apply a function, compiled, to as many rows at once as keep scores below MOST_BYTES.

    Its results, whose first axis is that of rows.
    """
    H, T = tensors[0].shape[1:3]
    at_once = max(1, MOST_BYTES // (2 * H * BLOCK * T))
    found = []
    for some in zip(*(x.split(at_once) for x in tensors), strict=True):
        layouts = tuple((tuple(x.shape), x.stride(), x.dtype) for x in some)
        found.append(_compile(function, layouts, scale)(*some))
    return [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*found, strict=True)]


@functools.lru_cache(MOST_COMPILED)
def _compile(function: Function, layouts: tuple[Layout, ...], scale: float) -> Function:
    """The function for tensors of these shapes, strides and types.

    Not by torch.compile, which would count it as a graph of the pass that calls it.
    """
    # What takes seconds to load. Without a shape_env torch does not keep what it compiled on disk.
    from torch._inductor import compile as compile_graph
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.proxy_tensor import make_fx
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    with FakeTensorMode(shape_env=ShapeEnv(), static_shapes=True):
        examples: list[Any] = [
            torch.empty_strided(shape, stride, dtype=dtype) for shape, stride, dtype in layouts
        ]
        graph = make_fx(functools.partial(function, scale=scale))(*examples)
    compiled: Function = compile_graph(graph, examples)
    return compiled


def list_blocks(T: int) -> list[tuple[int, int]]:
    """Where blocks begin and end."""
    return [(start, min(start + BLOCK, T)) for start in range(0, T, BLOCK)]


def _flatten(x: Array, H: int) -> Array:
    """All rows' heads, those of keys once for each query head. (B, K, T, D) -> (N, T, D)"""
    B, K, T, D = x.shape
    return x[:, :, None].expand(B, K, H // K, T, D).reshape(B * H, T, D)


def _allows(start: int, end: int) -> Array:
    """Where a query of a block reads a key. (queries, S)"""
    return torch.arange(start, end)[:, None] >= torch.arange(end)


def _attend_forward(q: Array, k: Array, v: Array, *, scale: float) -> tuple[Array, ...]:
    """attend_in_blocks, its first result (B, T, H, E)."""
    H, T = q.shape[1:3]
    q, k, v = (_flatten(x, H) for x in (q, k, v))
    outputs, rows = [], []
    for start, end in list_blocks(T):
        allowed, queries = _allows(start, end), q[:, start:end]
        rough = torch.bmm(queries, k[:, :end].mT).float()
        greatest = torch.where(allowed, rough, -math.inf).amax(-1, keepdim=True)
        below = scale * torch.bmm(_subtract(queries, greatest), _add_ones(k[:, :end]).mT).float()
        is_near = allowed & (below > FARTHEST)
        terms = torch.where(is_near, below.exp(), 0.0)
        total = terms.sum(-1, keepdim=True)
        mean = torch.where(is_near, terms * below, 0.0).sum(-1, keepdim=True) / total
        outputs.append(torch.bmm((terms / total).to(v.dtype), v[:, :end]))
        rows.append(torch.cat([scale * greatest + mean, total.log() - mean], -1))
    y = torch.cat(outputs, 1).unflatten(0, (-1, H)).swapaxes(1, 2)
    return y.contiguous(), torch.cat(rows, 1).unflatten(0, (-1, H))


def _attend_backward(
    dy: Array, q: Array, k: Array, v: Array, y: Array, rows: Array, *, scale: float
) -> tuple[Array, ...]:
    """attend_in_blocks_backward, its results (B, T, H or K, D or E)."""
    (H, T), K = q.shape[1:3], k.shape[1]
    dy, q, k, v, y, rows = (_flatten(x, H) for x in (dy, q, k, v, y, rows))
    mean, log_sum = rows.split(1, -1)
    dp_mean = (dy.float() * y.float()).sum(-1, keepdim=True)
    dq_blocks, dk_blocks, dv_blocks = [], [], []
    for start, end in list_blocks(T):
        queries = _subtract(q[:, start:end], mean[:, start:end] / scale)
        outputs = _subtract(dy[:, start:end], dp_mean[:, start:end])
        keys, values = _add_ones(k[:, :end]), _add_ones(v[:, :end])
        logs = scale * torch.bmm(queries, keys.mT).float() - log_sum[:, start:end]
        is_near = _allows(start, end) & (logs > FARTHEST)
        p = torch.where(is_near, logs.exp(), 0.0)
        ds = (scale * p * torch.bmm(outputs, values.mT).float()).to(q.dtype)
        dq_blocks.append(torch.bmm(ds, k[:, :end]))
        dk_blocks.append(torch.bmm(ds.mT, q[:, start:end]))
        dv_blocks.append(torch.bmm(p.to(q.dtype).mT, dy[:, start:end]))
    dq = torch.cat(dq_blocks, 1).unflatten(0, (-1, H)).swapaxes(1, 2).contiguous()
    return dq, _add_blocks(dk_blocks, T, H, K), _add_blocks(dv_blocks, T, H, K)


def _add_blocks(blocks: list[Array], T: int, H: int, K: int) -> Array:
    """The sum of what each block adds to the first keys, and of heads that share one.

    each (N, S, D) -> (B, T, K, D)
    """
    sums = []
    for i, (start, end) in enumerate(list_blocks(T)):
        total = blocks[i][:, start:end].float()
        for later in blocks[i + 1 :]:
            total = total + later[:, start:end].float()
        sums.append(total)
    total = torch.cat(sums, 1).unflatten(0, (-1, K, H // K)).sum(2)
    return total.to(blocks[0].dtype).swapaxes(1, 2).contiguous()


def _subtract(x: Array, number: Array) -> Array:
    """x with columns by which x z^T is less by a number of each row, where z has _add_ones.

    The number has 16 bits then. (N, queries, D), (N, queries, 1) in float32
    """
    columns, rest = [], -number
    for _ in range(EXTRA):
        # Not by a cast and back, which the compiler would leave out.
        high = (rest.contiguous().view(torch.int32) & ~0xFFFF).view(torch.float32)
        columns.append(high.to(x.dtype))
        rest = rest - high
    return torch.cat([x, *columns], -1)


def _add_ones(x: Array) -> Array:
    """x with columns of ones. (N, S, D) -> (N, S, D + EXTRA)"""
    return torch.cat([x, x.new_ones(*x.shape[:2], EXTRA)], -1)

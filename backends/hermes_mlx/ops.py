"""The elementary functions of the model, formula for formula those of hermes_numpy/ops.py.

FAST uses MLX's fused kernels. EXACT is what float64 uses, written in operations that are right to
the last bits there. On float64 arrays, which only the CPU has, MLX computes exp, sigmoid, softmax,
logsumexp, erf, sin, cos and all of mx.fast to float32's accuracy, though it returns float64; what
remains (arithmetic, sqrt, tanh, log, matmul, power) is double precision. So power(e, x) stands for
exp(x). PLAIN is FAST with power(e, x) as well: the faster of the two on CPUs that are not Apple's,
but for arrays of few elements, such as those of a step of decoding.

Letters: B batch, T queries, S keys, H query heads, K key/value heads, D head size, E that of
values, R rotated size.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType

import mlx.core as mx
from mlx.core import array as Array

from hermes.numerics.query_blocks import list_query_blocks
from hermes.spec import AttentionSpec, LayerNorm, NoNorm, RMSNorm
from hermes.spec.parts import Norm
from hermes_mlx import chunked_loss, loss
from hermes_mlx.context import Context
from hermes_mlx.elementary import (
    FEW,
    clamp_swiglu,
    clamp_swiglu_exact,
    clip,
    exp,
    gelu,
    gelu_exact,
    gelu_tanh,
    gelu_tanh_plain,
    relu,
    relu2,
    sigmoid_exact,
    silu,
    silu_exact,
    silu_plain,
)
from hermes_mlx.joined_weights import project_apart, project_joined
from hermes_mlx.loss import upcast
from hermes_mlx.products import project
from hermes_mlx.rotation import rotate, rotate_pairs


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """x W^T + b, in x's dtype. (..., in), (out, in), (out,) -> (..., out)."""
    y = project(x, weight)
    return y if bias is None else y + bias.astype(x.dtype)


def soft_cap(x: Array, cap: float) -> Array:
    """cap tanh(x / cap). Source: Bello et al. 2016, arXiv:1611.09940, eq. 16; Gemma 2."""
    return cap * mx.tanh(x / cap)


def softmax(x: Array) -> Array:
    """exp(x) / sum(exp(x)) over the last axis."""
    return mx.softmax(x, axis=-1, precise=True)


def softmax_plain(x: Array) -> Array:
    """softmax, or softmax_exact where x is large: the faster of the two on a CPU."""
    return softmax(x) if x.size <= FEW else softmax_exact(x)


def softmax_exact(x: Array) -> Array:
    """softmax, written out, shifted by the maximum."""
    # The shift cancels, so it has no gradient: stop_gradient spares computing one.
    e = exp(x - mx.stop_gradient(x.max(axis=-1, keepdims=True)))
    return e / e.sum(axis=-1, keepdims=True)


def log_sum_exp(x: Array) -> Array:
    """log(sum(exp(x))) over the last axis. (..., V) -> (...)."""
    return mx.logsumexp(x, axis=-1)


def log_sum_exp_exact(x: Array) -> Array:
    """log_sum_exp, written out, shifted by the maximum. (..., V) -> (...)."""
    m = mx.stop_gradient(x.max(axis=-1, keepdims=True))
    return (m + mx.log(exp(x - m).sum(axis=-1, keepdims=True)))[..., 0]


def add_offset(norm: RMSNorm | LayerNorm, weight: Array | None) -> Array | None:
    """What a norm multiplies by: w, 1 + w with unit_offset, or None for 1. (C,) -> (C,)."""
    return 1 + weight if norm.unit_offset and weight is not None else weight


def normalize(x: Array, norm: Norm, weight: Array | None, bias: Array | None) -> Array:
    """Normalize the last axis, in float32 at least. (..., C), (C,), (C,) -> (..., C).

    w is 1 and b is 0 where None; w may be (H, C), one for each head of (..., H, C), which the
    library's kernels do not have.
    Sources: Zhang and Sennrich 2019, RMSNorm, arXiv:1910.07467, eq. 4; Ba et al. 2016, LayerNorm,
    arXiv:1607.06450, eq. 4.
    """
    if weight is not None and weight.ndim > 1:
        return normalize_exact(x, norm, weight, bias)
    wide = upcast(x)
    match norm:
        case NoNorm():
            return x
        case RMSNorm(eps):
            y = mx.fast.rms_norm(wide, add_offset(norm, weight), eps)
        case LayerNorm(eps):
            y = mx.fast.layer_norm(wide, add_offset(norm, weight), bias, eps)
    return y.astype(x.dtype)


def normalize_exact(x: Array, norm: Norm, weight: Array | None, bias: Array | None) -> Array:
    """normalize, written out."""
    wide = upcast(x)
    match norm:
        case NoNorm():
            return x
        case RMSNorm(eps):
            y = wide / mx.sqrt((wide * wide).mean(axis=-1, keepdims=True) + eps)
        case LayerNorm(eps):
            d = wide - wide.mean(axis=-1, keepdims=True)
            y = d / mx.sqrt((d * d).mean(axis=-1, keepdims=True) + eps)
    weight = add_offset(norm, weight)
    y = y if weight is None else y * weight
    y = y if bias is None else y + bias
    return y.astype(x.dtype)


def attention_from_scores(
    q: Array,
    k: Array,
    v: Array,
    spec: AttentionSpec,
    slopes: Array | None,
    sinks: Array | None,
    ctx: Context,
    site: int,
    softmax: Callable[[Array], Array],
) -> Array:
    """Attention, written out. q (B, H, T, D), k (B, K, S, D), v (B, K, S, E) -> (B, H, T, E).

    softmax(cap(scale q k^T) - slope distance) v over the keys that the mask allows; query head h
    reads key head h K / H. A sink, one score per head, (H,), is one more term of the softmax's sum,
    and has no value. Sources: Vaswani et al. 2017, arXiv:1706.03762, eq. 1; Ainslie et al.
    2023, GQA, arXiv:2305.13245; Press et al. 2021, ALiBi, arXiv:2108.12409.
    """
    T, S = q.shape[2], k.shape[2]
    bias = None if slopes is None else ctx.alibi_bias(T, S, slopes)
    mask = ctx.attention_mask(T, S, spec)

    def weigh(scores: Array) -> Array:
        return ctx.dropout(softmax(scores)[..., :S], spec.dropout, site)

    return _mix_values(q, k, v, spec, bias, mask, sinks, weigh)


def _mix_values(
    q: Array,
    k: Array,
    v: Array,
    spec: AttentionSpec,
    bias: Array | None,
    mask: Array | None,
    sinks: Array | None,
    weigh: Callable[[Array], Array],
) -> Array:
    """attention_from_scores for some queries and keys. -> (B, H, T, E)

    bias: ALiBi's penalty (H, T, S). weigh: scores (B, H, T, S), or S + 1 with a sink, to weights
    (B, H, T, S).
    """
    B, H, T, D = q.shape
    K, S = k.shape[1], k.shape[2]
    q = q.reshape(B, K, H // K, T, D)  # beside the key head that they read, which is not copied
    scores = spec.score_scale * (q @ k[:, :, None].swapaxes(-1, -2))  # (B, K, H/K, T, S)
    scores = upcast(scores.reshape(B, H, T, S))
    if spec.softcap is not None:
        scores = soft_cap(scores, spec.softcap)
    if bias is not None:
        scores = scores - bias
    if mask is not None:
        scores = mx.where(mask, scores, -math.inf)
    if sinks is not None:
        column = mx.broadcast_to(sinks.astype(scores.dtype)[:, None, None], (B, H, T, 1))
        scores = mx.concatenate([scores, column], axis=-1)  # (B, H, T, S + 1)
    p = weigh(scores).astype(v.dtype)  # (B, H, T, S)
    return (p.reshape(B, K, H // K, T, S) @ v[:, :, None]).reshape(B, H, T, v.shape[-1])


def attention_exact(
    q: Array,
    k: Array,
    v: Array,
    spec: AttentionSpec,
    slopes: Array | None,
    sinks: Array | None,
    ctx: Context,
    site: int,
) -> Array:
    """attention_from_scores, exact in float64."""
    return attention_from_scores(q, k, v, spec, slopes, sinks, ctx, site, softmax_exact)


def attention_plain(
    q: Array,
    k: Array,
    v: Array,
    spec: AttentionSpec,
    slopes: Array | None,
    sinks: Array | None,
    ctx: Context,
    site: int,
) -> Array:
    """attention_from_scores, as fast as a CPU does it: long rows in blocks of queries.

    With dropout, rows are whole, since its masks are drawn for whole rows.
    """
    T, S = q.shape[2], k.shape[2]
    whole = ctx.is_decoding or T != S or not spec.causal or ctx.has_dropout(spec.dropout)
    blocks = [] if whole else list_query_blocks(T, spec.window_size)
    if len(blocks) < 2:
        return attention_from_scores(q, k, v, spec, slopes, sinks, ctx, site, softmax_plain)
    bias = None if slopes is None else ctx.alibi_bias(T, S, slopes)
    mask = ctx.attention_mask(T, S, spec)
    found = []
    for start, end, first in blocks:
        block = (..., slice(start, end), slice(first, end))
        found.append(
            _mix_values(
                q[:, :, start:end],
                k[:, :, first:end],
                v[:, :, first:end],
                spec,
                None if bias is None else bias[block],
                None if mask is None else mask[block],
                sinks,
                partial(_weigh_keys, end - first),
            )
        )
    return mx.concatenate(found, axis=2)


def _weigh_keys(keys: int, scores: Array) -> Array:
    """The weights of the keys, which a sink may follow. (..., S + 1) -> (..., S)."""
    return softmax_plain(scores)[..., :keys]


def attention(
    q: Array,
    k: Array,
    v: Array,
    spec: AttentionSpec,
    slopes: Array | None,
    sinks: Array | None,
    ctx: Context,
    site: int,
) -> Array:
    """attention_exact by the fused kernel, which has neither a soft cap nor our dropout masks."""
    if spec.softcap is not None or ctx.has_dropout(spec.dropout):
        return attention_from_scores(q, k, v, spec, slopes, sinks, ctx, site, softmax)
    T, S = q.shape[2], k.shape[2]
    is_causal = slopes is None and ctx.is_plain_causal(T, S, spec)
    mask = None if is_causal else ctx.attention_mask(T, S, spec)
    if slopes is not None:
        bias = -ctx.alibi_bias(T, S, slopes)
        mask = (bias if mask is None else mx.where(mask, bias, -math.inf)).astype(q.dtype)
    return mx.fast.scaled_dot_product_attention(
        q,
        k,
        v,
        scale=spec.score_scale,
        mask="causal" if is_causal else mask,
        sinks=None if sinks is None else sinks.astype(q.dtype),
    )


@dataclass(frozen=True)
class Ops:
    """The functions of which a faster and an exact variant exist."""

    activations: Mapping[str, Callable]
    project: Callable
    normalize: Callable
    rotate: Callable
    rotate_pairs: Callable
    attention: Callable
    clamp_swiglu: Callable
    soft_cap: Callable
    clip: Callable
    sigmoid: Callable
    softmax: Callable
    log_sum_exp: Callable
    logprobs: Callable
    next_token: Callable
    next_token_by_row: Callable
    row_logprobs: Callable
    preference: Callable


FAST = Ops(
    activations=MappingProxyType(
        {"gelu": gelu, "gelu_tanh": gelu_tanh, "silu": silu, "relu": relu, "relu2": relu2}
    ),
    project=project_joined,
    normalize=normalize,
    rotate=rotate,
    rotate_pairs=rotate_pairs,
    attention=attention,
    clamp_swiglu=clamp_swiglu,
    soft_cap=soft_cap,
    clip=clip,
    sigmoid=mx.sigmoid,
    softmax=softmax,
    log_sum_exp=log_sum_exp,
    logprobs=chunked_loss.logprobs,
    next_token=chunked_loss.next_token,
    next_token_by_row=chunked_loss.next_token_by_row,
    row_logprobs=chunked_loss.row_logprobs,
    preference=chunked_loss.preference,
)
EXACT = replace(
    FAST,
    activations=MappingProxyType({**FAST.activations, "gelu": gelu_exact, "silu": silu_exact}),
    clamp_swiglu=clamp_swiglu_exact,
    project=project_apart,
    normalize=normalize_exact,
    attention=attention_exact,
    sigmoid=sigmoid_exact,
    softmax=softmax_exact,
    log_sum_exp=log_sum_exp_exact,
    logprobs=loss.logprobs,
    next_token=loss.next_token,
    next_token_by_row=loss.next_token_by_row,
    row_logprobs=loss.row_logprobs,
    preference=loss.preference,
)
PLAIN = replace(
    FAST,
    activations=MappingProxyType(
        {**FAST.activations, "silu": silu_plain, "gelu_tanh": gelu_tanh_plain}
    ),
    clamp_swiglu=clamp_swiglu_exact,
    attention=attention_plain,
    sigmoid=sigmoid_exact,
    softmax=softmax_exact,
    log_sum_exp=log_sum_exp_exact,
)

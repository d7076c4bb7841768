"""The elementary functions of the model, formula for formula those of hermes_numpy/ops.py.

FAST uses the library's fused kernels; EXACT writes everything out, and is what float64 uses.
Nothing else differs between the two.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
import torch.nn.functional as F

from hermes.spec import LayerNorm, NoNorm, RMSNorm
from hermes_torch.chunked_loss import (
    chunked_logprobs,
    chunked_next_token,
    chunked_preference,
    chunked_row_logprobs,
)
from hermes_torch.loss import whole_logprobs, whole_next_token, whole_preference, whole_row_logprobs


def linear(x, weight, bias):
    """x W^T + b, W plain or packed (packing.py). (..., in), (out, in), (out,) -> (..., out)."""
    bias = None if bias is None else bias.to(x.dtype)
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return F.linear(x, weight.to(x.dtype), bias)


def silu(x):
    """x / (1 + exp(-x))."""
    return F.silu(x)


def gelu(x):
    """x (1 + erf(x / sqrt 2)) / 2."""
    return F.gelu(x)


def gelu_tanh(x):
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""
    return F.gelu(x, approximate="tanh")


def relu(x):
    """max(x, 0)."""
    return F.relu(x)


def relu2(x):
    """max(x, 0)^2."""
    return F.relu(x).square()


def soft_cap(x, cap):
    """cap tanh(x / cap)."""
    return cap * torch.tanh(x / cap)


def normalize(x, norm, weight, bias):
    """The norm of the spec over the last axis, its statistics in float32 at least."""
    if isinstance(norm, NoNorm):
        return x
    wide = x if x.dtype == torch.float64 else x.float()
    match norm:
        case RMSNorm(eps, unit_offset):
            scale = 1 + weight if unit_offset else weight
            y = F.rms_norm(wide, scale.shape, scale, eps)
        case LayerNorm(eps, _):
            y = F.layer_norm(wide, weight.shape, weight, bias, eps)
    return y.to(x.dtype)


def normalize_exact(x, norm, weight, bias):
    """The norm written out."""
    if isinstance(norm, NoNorm):
        return x
    wide = x if x.dtype == torch.float64 else x.float()
    match norm:
        case RMSNorm(eps, unit_offset):
            scale = 1 + weight if unit_offset else weight
            y = wide / torch.sqrt((wide * wide).mean(-1, keepdim=True) + eps) * scale
        case LayerNorm(eps, has_bias):
            d = wide - wide.mean(-1, keepdim=True)
            y = d / torch.sqrt((d * d).mean(-1, keepdim=True) + eps) * weight
            y = y + bias if has_bias else y
    return y.to(x.dtype)


def rotate(x, cos, sin):
    """Turn pairs (x[i], x[i + R/2]) of the leading R elements. (B, H, T, D) -> same."""
    half = cos.shape[-1]
    cos, sin = cos[..., None, :, :], sin[..., None, :, :]
    wide = x.to(cos.dtype)
    a, b, rest = wide[..., :half], wide[..., half : 2 * half], wide[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1).to(x.dtype)


def attention_exact(q, k, v, spec, slopes, ctx, site):
    """Attention written out. q (B, H, T, D), k, v (B, K, S, D) -> (B, H, T, D)."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)  # (B, H, S, D)
    scores = spec.score_scale * (q @ k.mT)  # (B, H, T, S)
    scores = scores if scores.dtype == torch.float64 else scores.float()
    if spec.softcap is not None:
        scores = soft_cap(scores, spec.softcap)
    if slopes is not None:
        scores = scores - ctx.alibi_bias(q.shape[2], k.shape[2], slopes)
    seen = ctx.attention_mask(q.shape[2], k.shape[2], spec)
    if seen is not None:
        scores = scores.masked_fill(~seen, -math.inf)
    p = ctx.dropout(torch.softmax(scores, -1), spec.dropout, site)
    return p.to(v.dtype) @ v


def attention(q, k, v, spec, slopes, ctx, site):
    """Attention by the fused kernel, where it can say what the spec asks for."""
    if spec.softcap is not None or ctx.has_dropout(spec.dropout):
        return attention_exact(q, k, v, spec, slopes, ctx, site)
    T, S = q.shape[2], k.shape[2]
    mask, triangle = None, ctx.is_plain_causal(T, S, spec)
    if slopes is not None:
        mask = -ctx.alibi_bias(T, S, slopes)
        seen = ctx.attention_mask(T, S, spec)
        mask = (mask if seen is None else mask.masked_fill(~seen, -math.inf)).to(q.dtype)
        triangle = False
    elif not triangle:
        mask = ctx.attention_mask(T, S, spec)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=triangle,
        scale=spec.score_scale,
        enable_gqa=q.shape[1] != k.shape[1],
    )


@dataclass(frozen=True)
class Ops:
    """The table: what a faster or a more exact way may stand in for."""

    activations: Mapping[str, Callable]
    normalize: Callable
    rotate: Callable
    attention: Callable
    soft_cap: Callable
    logprobs: Callable
    next_token: Callable
    row_logprobs: Callable
    preference: Callable


FAST = Ops(
    activations=MappingProxyType(
        {"gelu": gelu, "gelu_tanh": gelu_tanh, "silu": silu, "relu": relu, "relu2": relu2}
    ),
    normalize=normalize,
    rotate=rotate,
    attention=attention,
    soft_cap=soft_cap,
    logprobs=chunked_logprobs,
    next_token=chunked_next_token,
    row_logprobs=chunked_row_logprobs,
    preference=chunked_preference,
)
EXACT = replace(
    FAST,
    normalize=normalize_exact,
    attention=attention_exact,
    logprobs=whole_logprobs,
    next_token=whole_next_token,
    row_logprobs=whole_row_logprobs,
    preference=whole_preference,
)

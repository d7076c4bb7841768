"""The elementary functions of the model, each docstring its formula. NumPy, float64.

Letters: B batch, T queries, S keys, H query heads, K key/value heads, D head size, E that of
values, R rotated size.
"""

import math
from typing import Any

import numpy as np
from numpy import ndarray as Array

from hermes.spec import AttentionSpec, LayerNorm, NoNorm, RMSNorm
from hermes.spec.parts import Norm
from hermes_numpy.context import Context

_erf: Any = np.frompyfunc(math.erf, 1, 1)  # NumPy has no erf


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """x W^T + b. (..., in), (out, in), (out,) -> (..., out)."""
    y = x @ weight.T
    return y if bias is None else y + bias


def multiply(x: Array, factor: float | None) -> Array:
    """x times a number, or x for None."""
    return x if factor is None else factor * x


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x))."""
    with np.errstate(over="ignore"):  # where exp(-x) is inf, the quotient is 0 as it should be
        return 1 / (1 + np.exp(-x))


def silu(x: Array) -> Array:
    """x / (1 + exp(-x)). Source: Elfwing et al. 2017, arXiv:1702.03118."""
    return x * sigmoid(x)


def gelu(x: Array) -> Array:
    """x (1 + erf(x / sqrt 2)) / 2. Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, eq. 1."""
    return x * (1 + _erf(x / math.sqrt(2)).astype(x.dtype)) / 2


def gelu_tanh(x: Array) -> Array:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2. Source: as gelu, section 2."""
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))) / 2


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return np.maximum(x, 0)


def relu2(x: Array) -> Array:
    """max(x, 0)^2. Source: So et al. 2021, Primer, arXiv:2109.08668."""
    return relu(x) * relu(x)


activations = {"gelu": gelu, "gelu_tanh": gelu_tanh, "silu": silu, "relu": relu, "relu2": relu2}


def clamp_swiglu(gate: Array, up: Array, limit: float, alpha: float) -> Array:
    """min(gate, limit) sigmoid(alpha min(gate, limit)) (clip(up, -limit, limit) + 1).

    Source: OpenAI 2025, gpt-oss model card, arXiv:2508.10925, and its reference code.
    """
    gate = np.minimum(gate, limit)
    return gate * sigmoid(alpha * gate) * (clip(up, limit) + 1)


def softmax(x: Array) -> Array:
    """exp(x) / sum(exp(x)) over the last axis, shifted by the maximum."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def log_sum_exp(x: Array) -> Array:
    """log(sum(exp(x))) over the last axis, shifted by the maximum. (..., V) -> (...)."""
    m = x.max(axis=-1, keepdims=True)
    return (m + np.log(np.exp(x - m).sum(axis=-1, keepdims=True)))[..., 0]


def soft_cap(x: Array, cap: float) -> Array:
    """cap tanh(x / cap). Source: Bello et al. 2016, arXiv:1611.09940, eq. 16; Gemma 2."""
    return cap * np.tanh(x / cap)


def project(x: Array, *linears: Any) -> tuple[Any, ...]:
    """Each Linear's output, None of None. (..., in) -> (..., out) of each."""
    return tuple(None if linear is None else linear(x) for linear in linears)


def clip(x: Array, bound: float) -> Array:
    """min(max(x, -bound), bound)."""
    return np.minimum(np.maximum(x, -bound), bound)


def normalize(x: Array, norm: Norm, weight: Array | None, bias: Array | None) -> Array:
    """Normalize the last axis. (..., C), (C,) or None, (C,) or None -> (..., C).

    rmsnorm x / sqrt(mean(x^2) + eps) * w, with 1 + w for w where unit_offset;
    layernorm (x - mean) / sqrt(mean((x - mean)^2) + eps) * w + b, likewise; w is 1 and b is 0 where
    None.
    Sources: Zhang and Sennrich 2019, RMSNorm, arXiv:1910.07467, eq. 4; Ba et al. 2016, LayerNorm,
    arXiv:1607.06450, eq. 4. Weight and bias may be (H, C), for each head of (..., H, C).
    """
    match norm:
        case NoNorm():
            return x
        case RMSNorm(eps):
            y = x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps)
        case LayerNorm(eps):
            d = x - x.mean(axis=-1, keepdims=True)
            y = d / np.sqrt((d * d).mean(axis=-1, keepdims=True) + eps)
    if weight is not None:
        y = y * (1 + weight if norm.unit_offset else weight)
    return y if bias is None else y + bias


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotate pairs (x[i], x[i + R/2]) of the first R elements. (B, H, T, D) -> same.

    cos, sin: (T, R/2) or (B, T, R/2). Half-split pairs, as in Llama; others interleave.
    Source: Su et al. 2021, RoFormer, arXiv:2104.09864, eq. 34.
    """
    half = cos.shape[-1]
    cos, sin = cos[..., None, :, :], sin[..., None, :, :]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


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
    """Attention of every query to the keys that its mask allows.

    q (B, H, T, D), k (B, K, S, D), v (B, K, S, E) -> (B, H, T, E).
    softmax(cap(scale q k^T) - slope distance) v; query head h reads key head h K / H. The mask
    allows the query's own document, no later keys if causal, and of those the last window_size.
    A sink, one score per head, (H,), is one more term of the softmax's sum, and has no value.
    Sources: Vaswani et al. 2017, arXiv:1706.03762, eq. 1; Ainslie et al. 2023, GQA,
    arXiv:2305.13245; Press et al. 2021, ALiBi, arXiv:2108.12409; OpenAI 2025, gpt-oss (sinks).
    """
    B, H, T, D = q.shape
    S = k.shape[2]
    k = k.repeat(H // k.shape[1], axis=1)  # (B, H, S, D)
    v = v.repeat(H // v.shape[1], axis=1)  # (B, H, S, E)
    scores = spec.score_scale * (q @ k.swapaxes(2, 3))  # (B, H, T, S)
    if spec.softcap is not None:
        scores = soft_cap(scores, spec.softcap)
    if slopes is not None:
        scores = scores - np.asarray(slopes)[:, None, None] * abs(ctx.relative_positions(T, S))
    scores = np.where(ctx.attention_mask(T, S, spec), scores, -np.inf)
    if sinks is not None:
        column = sinks[:, None, None] + np.zeros((B, H, T, 1))
        scores = np.concatenate([scores, column], axis=-1)  # (B, H, T, S + 1)
    p = ctx.dropout(softmax(scores)[..., :S], spec.dropout, site)
    return p @ v

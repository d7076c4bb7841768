"""The elementary functions of the model, formula for formula those of hermes_numpy/ops.py.

FAST uses MLX's fused kernels. EXACT uses only operations that are right to the last bits in
float64, where MLX computes exp, sigmoid, softmax, erf and everything in mx.fast in float32:
power(e, x) is a true exp there. Nothing else differs between the tables. PLAIN is FAST with
power(e, x) for exp, which is the faster of the two on CPUs that are not Apple's.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import mlx.core as mx

from hermes.spec import LayerNorm, NoNorm, RMSNorm
from hermes_mlx.chunked_loss import (
    chunked_logprobs,
    chunked_next_token,
    chunked_preference,
    chunked_row_logprobs,
)
from hermes_mlx.erf import erf
from hermes_mlx.loss import whole_logprobs, whole_next_token, whole_preference, whole_row_logprobs


def exp(x):
    """e^x, right in float64 too, where mx.exp is not."""
    return mx.power(math.e, x)


def silu(x):
    """x / (1 + exp(-x))."""
    return x * mx.sigmoid(x)


def silu_exact(x):
    """x / (1 + exp(-x)); the bound keeps the gradient of a very negative x from inf / inf."""
    return x / (1 + exp(mx.minimum(-x, 80)))


def gelu(x):
    """x (1 + erf(x / sqrt 2)) / 2."""
    return x * (1 + mx.erf(x / math.sqrt(2))) / 2


def gelu_exact(x):
    """x (1 + erf(x / sqrt 2)) / 2."""
    return x * (1 + erf(x / math.sqrt(2))) / 2


def gelu_tanh(x):
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2."""
    return x * (1 + mx.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))) / 2


def relu(x):
    """max(x, 0)."""
    return mx.maximum(x, 0)


def relu2(x):
    """max(x, 0)^2."""
    return mx.square(mx.maximum(x, 0))


def soft_cap(x, cap):
    """cap tanh(x / cap)."""
    return cap * mx.tanh(x / cap)


def softmax(x):
    """exp(x) / sum(exp(x)) over the last axis."""
    return mx.softmax(x, axis=-1, precise=True)


def softmax_exact(x):
    """exp(x) / sum(exp(x)) over the last axis, shifted by the maximum."""
    e = exp(x - mx.stop_gradient(x.max(axis=-1, keepdims=True)))
    return e / e.sum(axis=-1, keepdims=True)


def log_sum_exp(x):
    """log(sum(exp(x))) over the last axis. (..., V) -> (...)."""
    return mx.logsumexp(x, axis=-1)


def log_sum_exp_exact(x):
    """log(sum(exp(x))) over the last axis, shifted by the maximum. (..., V) -> (...)."""
    m = mx.stop_gradient(x.max(axis=-1, keepdims=True))
    return (m + mx.log(exp(x - m).sum(axis=-1, keepdims=True)))[..., 0]


def normalize(x, norm, weight, bias):
    """The norm of the spec over the last axis, its statistics in float32 at least."""
    if isinstance(norm, NoNorm):
        return x
    wide = x if x.dtype == mx.float64 else x.astype(mx.float32)
    match norm:
        case RMSNorm(eps, unit_offset):
            y = mx.fast.rms_norm(wide, 1 + weight if unit_offset else weight, eps)
        case LayerNorm(eps, _):
            y = mx.fast.layer_norm(wide, weight, bias, eps)
    return y.astype(x.dtype)


def normalize_exact(x, norm, weight, bias):
    """The norm written out."""
    if isinstance(norm, NoNorm):
        return x
    wide = x if x.dtype == mx.float64 else x.astype(mx.float32)
    match norm:
        case RMSNorm(eps, unit_offset):
            scale = 1 + weight if unit_offset else weight
            y = wide / mx.sqrt((wide * wide).mean(axis=-1, keepdims=True) + eps) * scale
        case LayerNorm(eps, has_bias):
            d = wide - wide.mean(axis=-1, keepdims=True)
            y = d / mx.sqrt((d * d).mean(axis=-1, keepdims=True) + eps) * weight
            y = y + bias if has_bias else y
    return y.astype(x.dtype)


def rotate(x, cos, sin):
    """Turn pairs (x[i], x[i + R/2]) of the leading R elements. (B, H, T, D) -> same."""
    half = cos.shape[-1]
    cos, sin = cos[..., None, :, :], sin[..., None, :, :]
    wide = x.astype(cos.dtype)
    a, b, rest = wide[..., :half], wide[..., half : 2 * half], wide[..., 2 * half :]
    turned = [a * cos - b * sin, b * cos + a * sin]
    turned = [*turned, rest] if rest.shape[-1] else turned
    return mx.concatenate(turned, axis=-1).astype(x.dtype)


def attention_from_scores(q, k, v, spec, slopes, ctx, site, softmax):
    """Attention written out. q (B, H, T, D), k, v (B, K, S, D) -> (B, H, T, D)."""
    B, H, T, D = q.shape
    K, S = k.shape[1], k.shape[2]
    q = q.reshape(B, K, H // K, T, D)  # a key head with the queries that read it
    scores = spec.score_scale * (q @ k[:, :, None].swapaxes(-1, -2))  # (B, K, H/K, T, S)
    scores = scores.reshape(B, H, T, S)
    scores = scores if scores.dtype == mx.float64 else scores.astype(mx.float32)
    if spec.softcap is not None:
        scores = soft_cap(scores, spec.softcap)
    if slopes is not None:
        scores = scores - ctx.alibi_bias(T, S, slopes)
    seen = ctx.attention_mask(T, S, spec)
    if seen is not None:
        scores = mx.where(seen, scores, -math.inf)
    p = ctx.dropout(softmax(scores), spec.dropout, site).astype(v.dtype)  # (B, H, T, S)
    return (p.reshape(B, K, H // K, T, S) @ v[:, :, None]).reshape(B, H, T, D)


def attention_exact(q, k, v, spec, slopes, ctx, site):
    """Attention written out, exact in float64."""
    return attention_from_scores(q, k, v, spec, slopes, ctx, site, softmax_exact)


def attention(q, k, v, spec, slopes, ctx, site):
    """Attention by the fused kernel, where it can say what the spec asks for."""
    if spec.softcap is not None or ctx.has_dropout(spec.dropout):
        return attention_from_scores(q, k, v, spec, slopes, ctx, site, softmax)
    T, S = q.shape[2], k.shape[2]
    mask = "causal" if ctx.is_plain_causal(T, S, spec) else ctx.attention_mask(T, S, spec)
    if slopes is not None:
        seen = ctx.attention_mask(T, S, spec)
        mask = -ctx.alibi_bias(T, S, slopes)
        mask = (mask if seen is None else mx.where(seen, mask, -math.inf)).astype(q.dtype)
    return mx.fast.scaled_dot_product_attention(q, k, v, scale=spec.score_scale, mask=mask)


@dataclass(frozen=True)
class Ops:
    """The table: what a faster or a more exact way may stand in for."""

    activations: Mapping[str, Callable]
    normalize: Callable
    rotate: Callable
    attention: Callable
    soft_cap: Callable
    softmax: Callable
    log_sum_exp: Callable
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
    softmax=softmax,
    log_sum_exp=log_sum_exp,
    logprobs=chunked_logprobs,
    next_token=chunked_next_token,
    row_logprobs=chunked_row_logprobs,
    preference=chunked_preference,
)
EXACT = replace(
    FAST,
    activations=MappingProxyType({**FAST.activations, "gelu": gelu_exact, "silu": silu_exact}),
    normalize=normalize_exact,
    attention=attention_exact,
    softmax=softmax_exact,
    log_sum_exp=log_sum_exp_exact,
    logprobs=whole_logprobs,
    next_token=whole_next_token,
    row_logprobs=whole_row_logprobs,
    preference=whole_preference,
)
PLAIN = replace(
    FAST,
    activations=MappingProxyType({**FAST.activations, "silu": silu_exact}),
    attention=attention_exact,
    softmax=softmax_exact,
    log_sum_exp=log_sum_exp_exact,
)

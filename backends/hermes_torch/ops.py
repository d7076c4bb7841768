"""The elementary functions of the model, formula for formula those of hermes_numpy/ops.py.

FAST uses the library's fused kernels; EXACT writes everything out, and is what float64 uses.
Nothing else differs between the two.

Letters: B batch, T queries, S keys, H query heads, K key/value heads, D head size, E that of
values.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor as Array

from hermes.spec import AttentionSpec, LayerNorm, NoNorm, RMSNorm
from hermes.spec.parts import Norm
from hermes_torch import chunked_loss, loss
from hermes_torch.block_attention import attend_in_blocks
from hermes_torch.compiler import warn_compiler_failed
from hermes_torch.context import Context
from hermes_torch.fused_attention import attend_flex, attend_varlen
from hermes_torch.head_products import multiply_aligned, wants_aligned_rows
from hermes_torch.joined_weights import multiply_packed, project_apart, project_joined
from hermes_torch.loss import upcast
from hermes_torch.onednn_products import apply_matrix, wants_onednn
from hermes_torch.rotation import rotate, rotate_pairs


def linear(x: Array, weight: Array, bias: Array | None) -> Array:
    """x W^T + b, in x's dtype. (..., in), (out, in), (out,) -> (..., out)."""
    bias = None if bias is None else bias.to(x.dtype)
    if weight.is_mkldnn:  # packed by weight_layout.py
        return multiply_packed(x, weight, bias)
    if wants_aligned_rows(x, weight) and not wants_onednn(x, weight):
        y = multiply_aligned(x, weight)
        return y if bias is None else y + bias
    return apply_matrix(x, weight.to(x.dtype), bias)


def multiply(x: Array, factor: float | None) -> Array:
    """x times a number, or x for None."""
    return x if factor is None else factor * x


def silu(x: Array) -> Array:
    """x / (1 + exp(-x)). Source: Elfwing et al. 2017, arXiv:1702.03118."""
    return F.silu(x)


def gelu(x: Array) -> Array:
    """x (1 + erf(x / sqrt 2)) / 2. Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, eq. 1."""
    return F.gelu(x)


def gelu_tanh(x: Array) -> Array:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2. Source: as gelu, section 2."""
    return F.gelu(x, approximate="tanh")


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return F.relu(x)


def relu2(x: Array) -> Array:
    """max(x, 0)^2. Source: So et al. 2021, Primer, arXiv:2109.08668."""
    return F.relu(x).square()


def clamp_swiglu(gate: Array, up: Array, limit: float, alpha: float) -> Array:
    """min(gate, limit) sigmoid(alpha min(gate, limit)) (clip(up, -limit, limit) + 1).

    Source: OpenAI 2025, gpt-oss model card, arXiv:2508.10925, and its reference code.
    """
    gate = gate.clamp(max=limit)
    return gate * torch.sigmoid(alpha * gate) * (clip(up, limit) + 1)


def soft_cap(x: Array, cap: float) -> Array:
    """cap tanh(x / cap). Source: Bello et al. 2016, arXiv:1611.09940, eq. 16; Gemma 2."""
    return cap * torch.tanh(x / cap)


def add_offset(norm: RMSNorm | LayerNorm, weight: Array | None) -> Array | None:
    """What a norm multiplies by: w, 1 + w with unit_offset, or None for 1. (C,) -> (C,)."""
    return 1 + weight if norm.unit_offset and weight is not None else weight


def clip(x: Array, bound: float) -> Array:
    """min(max(x, -bound), bound)."""
    return x.clamp(-bound, bound)


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
            y = F.rms_norm(wide, wide.shape[-1:], add_offset(norm, weight), eps)
        case LayerNorm(eps):
            y = F.layer_norm(wide, wide.shape[-1:], add_offset(norm, weight), bias, eps)
    return y.to(x.dtype)


def normalize_exact(x: Array, norm: Norm, weight: Array | None, bias: Array | None) -> Array:
    """normalize, written out."""
    wide = upcast(x)
    match norm:
        case NoNorm():
            return x
        case RMSNorm(eps):
            y = wide / torch.sqrt((wide * wide).mean(-1, keepdim=True) + eps)
        case LayerNorm(eps):
            d = wide - wide.mean(-1, keepdim=True)
            y = d / torch.sqrt((d * d).mean(-1, keepdim=True) + eps)
    weight = add_offset(norm, weight)
    y = y if weight is None else y * weight
    y = y if bias is None else y + bias
    return y.to(x.dtype)


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
    """Attention, written out. q (B, H, T, D), k (B, K, S, D), v (B, K, S, E) -> (B, H, T, E).

    softmax(cap(scale q k^T) - slope distance) v over the keys that the mask allows; query head h
    reads key head h K / H. A sink, one score per head, (H,), is one more term of the softmax's sum,
    and has no value. Sources: Vaswani et al. 2017, arXiv:1706.03762, eq. 1; Ainslie et al.
    2023, GQA, arXiv:2305.13245; Press et al. 2021, ALiBi, arXiv:2108.12409.
    """
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)  # (B, H, S, D)
    scores = upcast(spec.score_scale * (q @ k.mT))  # (B, H, T, S)
    if spec.softcap is not None:
        scores = soft_cap(scores, spec.softcap)
    if slopes is not None:
        scores = scores - ctx.alibi_bias(q.shape[2], k.shape[2], slopes)
    mask = ctx.attention_mask(q.shape[2], k.shape[2], spec)
    if mask is not None:
        scores = scores.masked_fill(~mask, -math.inf)
    if sinks is not None:
        column = sinks.to(scores.dtype)[:, None, None].expand(*scores.shape[:3], 1)
        scores = torch.cat([scores, column], -1)  # (B, H, T, S + 1)
    p = ctx.dropout(torch.softmax(scores, -1)[..., : k.shape[2]], spec.dropout, site)
    return p.to(v.dtype) @ v


def can_fuse_grouped_heads(
    device: str, dtype: torch.dtype, head_sizes: tuple[int, int], *, has_mask: bool
) -> bool:
    """Whether a fused kernel takes fewer heads of keys than of queries, as they are.

    head_sizes: D, E. On CUDA the flash kernel alone does, which has low precision, equal head sizes
    and no masks. The memory-efficient one has the rest, and wants as many heads of keys; given
    fewer, torch takes neither, and keeps (B, H, T, S). Source: torch 2.13,
    aten/src/ATen/native/transformers/cuda/sdp_utils.cpp.
    """
    if device != "cuda":
        return True
    is_low = dtype in (torch.bfloat16, torch.float16)
    return is_low and head_sizes[0] == head_sizes[1] and not has_mask


def expand_heads(x: Array, groups: int) -> Array:
    """Repeat each head of keys for the queries that it serves. (B, K, S, D) -> (B, H, S, D)."""
    return x.repeat_interleave(groups, 1)


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
    """attention_exact by a fused kernel, where one has what the layer asks for."""
    T, S = q.shape[2], k.shape[2]
    match ctx.choose_kernel(T, S, spec):
        case "written out":
            return attention_exact(q, k, v, spec, slopes, sinks, ctx, site)
        case "varlen":
            return attend_varlen(q, k, v, spec, ctx.boundaries)
        case "blocks":
            y, _ = attend_in_blocks(q, k, v, spec.score_scale)
            return y
        case "flex":
            dropout = ctx.make_dropout(spec.dropout, site)
            blocks = ctx.block_mask(T, spec)
            try:
                return attend_flex(q, k, v, spec, slopes, sinks, blocks, dropout)
            except Exception as error:
                # Inside a compiled pass the learner is told; alone it is done without.
                is_inside = torch.compiler.is_compiling()
                if is_inside or not warn_compiler_failed(error, is_first_forward=False):
                    raise
            ctx.kernels.flex = False
            return attention(q, k, v, spec, slopes, sinks, ctx, site)
    is_causal = slopes is None and ctx.is_plain_causal(T, S, spec)
    mask = None if is_causal else ctx.attention_mask(T, S, spec)
    if slopes is not None:
        bias = -ctx.alibi_bias(T, S, slopes)
        mask = (bias if mask is None else bias.masked_fill(~mask, -math.inf)).to(q.dtype)
    groups, sizes = q.shape[1] // k.shape[1], (k.shape[3], v.shape[3])
    if groups > 1 and not can_fuse_grouped_heads(
        q.device.type, q.dtype, sizes, has_mask=mask is not None
    ):
        k, v = expand_heads(k, groups), expand_heads(v, groups)
    return F.scaled_dot_product_attention(
        q,
        k,
        v,
        attn_mask=mask,
        is_causal=is_causal,
        scale=spec.score_scale,
        enable_gqa=q.shape[1] != k.shape[1],
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
    sigmoid=torch.sigmoid,
    logprobs=chunked_loss.logprobs,
    next_token=chunked_loss.next_token,
    next_token_by_row=chunked_loss.next_token_by_row,
    row_logprobs=chunked_loss.row_logprobs,
    preference=chunked_loss.preference,
)
EXACT = replace(
    FAST,
    project=project_apart,
    normalize=normalize_exact,
    attention=attention_exact,
    logprobs=loss.logprobs,
    next_token=loss.next_token,
    next_token_by_row=loss.next_token_by_row,
    row_logprobs=loss.row_logprobs,
    preference=loss.preference,
)

"""The forward pass, as functions of a dictionary of weights by tensor name.

Read beside `backends/hermes_numpy/model.py` and `ops.py`. Letters: B batch, T positions, C hidden
size, H query heads, K key/value heads, D head size, R rotated size, S keys.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hermes.numerics.params import list_norms
from hermes.numerics.positions import alibi_slopes
from hermes.spec import Alibi, LayerNorm, NoNorm, RMSNorm

ACTIVATIONS = {
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "silu": jax.nn.silu,
    "relu": jax.nn.relu,
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}


class Context(NamedTuple):
    """What layers share: rope's tables, positions (T,) or (B, T), documents, the KV cache."""

    angles: Callable
    positions: jax.Array
    segments: jax.Array | None
    cache: dict[int, tuple[jax.Array, jax.Array]]


def linear(p, name, x):
    """x W^T + b. (..., in) -> (..., out)."""
    y = x @ p[f"{name}.weight"].T
    return y + p[f"{name}.bias"] if f"{name}.bias" in p else y


def normalize(p, name, norm, x):
    """rmsnorm, layernorm or nothing, over the last axis. (..., C) -> (..., C)."""
    w = p.get(f"{name}.weight", 1)
    w = w.reshape(x.shape[-2:]) if jnp.size(w) > x.shape[-1] else w  # one for each head
    match norm:
        case NoNorm() | None:
            return x
        case RMSNorm(eps, unit_offset):
            return x / jnp.sqrt((x * x).mean(-1, keepdims=True) + eps) * (w + int(unit_offset))
        case LayerNorm(eps):
            d = x - x.mean(-1, keepdims=True)
            y = d / jnp.sqrt((d * d).mean(-1, keepdims=True) + eps) * w
            return y + p.get(f"{name}.bias", 0)


def rotate(x, cos, sin):
    """Rotate pairs (x[i], x[i + R/2]) of the first R elements. (B, H, T, D) -> same."""
    half = cos.shape[-1]
    cos, sin = cos[..., None, :, :], sin[..., None, :, :]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def attention(q, k, v, spec, slopes, sinks, segments):
    """Attention. q (B, H, T, D), k (B, K, S, D), v (B, K, S, E) -> (B, H, T, E)."""
    H, T, S = q.shape[1], q.shape[2], k.shape[2]
    k, v = k.repeat(H // k.shape[1], 1), v.repeat(H // v.shape[1], 1)  # (B, H, S, D or E)
    scores = spec.score_scale * (q @ k.mT)  # (B, H, T, S)
    if spec.softcap is not None:
        scores = spec.softcap * jnp.tanh(scores / spec.softcap)
    relative = S - T + jnp.arange(T)[:, None] - jnp.arange(S)  # position of query minus of key
    if isinstance(spec.position_encoding, Alibi):
        scores = scores - slopes[:, None, None] * abs(relative).astype(q.dtype)
    mask = relative >= 0 if spec.causal else relative < S
    if spec.window_size is not None:
        mask = mask & (abs(relative) < spec.window_size)
    if segments is not None:
        mask = mask & (segments[:, :, None] == segments[:, None, :])[:, None]
    scores = jnp.where(mask, scores, -jnp.inf)
    if sinks is not None:
        column = jnp.broadcast_to(sinks[:, None, None], (*scores.shape[:3], 1))
        scores = jnp.concatenate([scores, column], axis=-1)  # (B, H, T, S + 1)
    return jax.nn.softmax(scores, axis=-1)[..., :S] @ v


def attend(p, name, block, layer, x, ctx):
    """Grouped-query attention with its positions. (B, T, C) -> (B, T, C)."""
    spec, (B, T, _) = block.attention, x.shape

    def heads(part, count, size):
        y, norm = linear(p, f"{name}.{part}_proj", x), spec.query_key_norm if part != "v" else None
        y = y if spec.clip_qkv is None else jnp.clip(y, -spec.clip_qkv, spec.clip_qkv)
        if norm is not None:
            y = y if norm.over == "flat" else y.reshape(B, T, count, size)
            y = normalize(p, f"{name}.{part}_norm", block.qk_norm, y)
        y = y.reshape(B, T, count, size).swapaxes(1, 2)  # (B, count, T, size)
        if spec.rotary_size and part != "v":
            cos, sin = ctx.angles(spec)
            y = rotate(y, cos[ctx.positions], sin[ctx.positions])
        return y

    K, D = spec.kv_heads, spec.head_size
    q, k, v = heads("q", spec.num_heads, D), heads("k", K, D), heads("v", K, spec.value_size)
    if layer in ctx.cache:
        k, v = (jnp.concatenate(pair, 2) for pair in zip(ctx.cache[layer], (k, v), strict=True))
    ctx.cache[layer] = k, v
    slopes = p.get(f"{name}.alibi_slopes", alibi_slopes(spec.num_heads).astype(q.dtype))
    y = attention(q, k, v, spec, slopes, p.get(f"{name}.sinks"), ctx.segments)
    y = y.swapaxes(1, 2).reshape(B, T, -1)
    y = y * jax.nn.sigmoid(linear(p, f"{name}.gate_proj", x)) if spec.output_gate else y
    return linear(p, f"{name}.o_proj", y)


def feed_forward(p, name, spec, x):
    """down(act(up(x))), or gated: down(act(gate(x)) * up(x)). (B, T, C) -> (B, T, C)."""
    act, up = ACTIVATIONS[spec.function], linear(p, f"{name}.up_proj", x)
    gate = linear(p, f"{name}.gate_proj", x) if spec.gated else None
    h = act(up) if gate is None else act(gate) * up
    if spec.limit is not None:  # the clamped swiglu
        gate, up = jnp.minimum(gate, spec.limit), jnp.clip(up, -spec.limit, spec.limit)
        h = gate * jax.nn.sigmoid(spec.alpha * gate) * (up + 1)
    return linear(p, f"{name}.down_proj", h)


def run_block(p, layer, block, x, ctx):
    """Attention and feed-forward, each with its norms and residual. (B, T, C) -> (B, T, C)."""
    path, norms = f"model.layers.{layer}", list_norms(block)

    def apply_norm(where, y):
        return normalize(p, f"{path}.{norms[where]}", block.norm, y) if where in norms else y

    scale = 1 if block.residual_scale is None else block.residual_scale
    h, n = x, apply_norm("attention_in", x)
    if block.attention is not None:
        y = attend(p, f"{path}.self_attn", block, layer, n, ctx)
        y = scale * apply_norm("attention_out", y)
        h = apply_norm("attention_sum", x + y if block.residual else y)
    if block.ffn is None:
        return h
    n = n if block.shared_norm else apply_norm("ffn_in", x if block.parallel else h)
    f = scale * apply_norm("ffn_out", feed_forward(p, f"{path}.mlp", block.ffn, n))
    return apply_norm("ffn_sum", h + f if block.residual or block.parallel else f)


def forward(spec, p, tokens, ctx):
    """Logits of every position. (B, T) ids -> (B, T, V)."""
    embedding = p["model.embed_tokens.weight"]
    x = embedding[tokens]  # (B, T, C)
    if spec.embeddings.scale is not None:
        x = x * spec.embeddings.scale
    x = normalize(p, "model.embed_norm", spec.embeddings.norm, x)
    if spec.learned_positions:
        x = x + p["model.embed_positions.weight"][ctx.positions]
    for layer, block in enumerate(spec.layers):
        x = run_block(p, layer, block, x, ctx)
    x = normalize(p, "model.norm", spec.final_norm, x)
    y = x @ (embedding if spec.embeddings.tie_weights else p["lm_head.weight"]).T
    y = y + p["lm_head.bias"] if spec.output.bias else y
    y = y if spec.output.scale is None else spec.output.scale * y
    cap = spec.output.softcap
    return y if cap is None else cap * jnp.tanh(y / cap)

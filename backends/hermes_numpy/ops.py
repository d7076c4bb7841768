"""The elementary functions of the model, each docstring its formula. NumPy, float64.

Letters: B batch, T queries, S keys, H query heads, K key/value heads, D head size.
"""

import math

import numpy as np

from hermes.spec import LayerNorm, LinearScaling, Llama3Scaling, NoNorm, RMSNorm, YarnScaling

_erf = np.frompyfunc(math.erf, 1, 1)


def sigmoid(x):
    """1 / (1 + exp(-x))."""
    with np.errstate(over="ignore"):  # exp(-x) = inf gives 0, as it should
        return 1 / (1 + np.exp(-x))


def silu(x):
    """x sigmoid(x). Source: Elfwing et al. 2017, arXiv:1702.03118."""
    return x * sigmoid(x)


def gelu(x):
    """x Phi(x) = x (1 + erf(x / sqrt 2)) / 2. Source: Hendrycks and Gimpel, arXiv:1606.08415."""
    return x * (1 + _erf(x / math.sqrt(2)).astype(x.dtype)) / 2


def gelu_tanh(x):
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2, GPT-2's approximation of gelu."""
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))) / 2


def relu(x):
    """max(x, 0)."""
    return np.maximum(x, 0)


def relu2(x):
    """max(x, 0)^2. Source: So et al. 2021, Primer, arXiv:2109.08668."""
    return relu(x) * relu(x)


activations = {"gelu": gelu, "gelu_tanh": gelu_tanh, "silu": silu, "relu": relu, "relu2": relu2}


def softmax(x):
    """exp(x) / sum(exp(x)) over the last axis, shifted by the maximum."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def log_sum_exp(x):
    """log(sum(exp(x))) over the last axis, shifted by the maximum. (..., V) -> (...)."""
    m = x.max(axis=-1, keepdims=True)
    return (m + np.log(np.exp(x - m).sum(axis=-1, keepdims=True)))[..., 0]


def soft_cap(x, cap):
    """cap tanh(x / cap). Source: Bello et al. 2016, arXiv:1611.09940; Gemma 2."""
    return cap * np.tanh(x / cap)


def normalize(x, norm, weight, bias):
    """The norm of the spec over the last axis. (..., C) -> (..., C).

    rmsnorm x / sqrt(mean(x^2) + eps) * w, with 1 + w for w where unit_offset;
    layernorm (x - mean) / sqrt(mean((x - mean)^2) + eps) * w + b.
    """
    match norm:
        case RMSNorm(eps, unit_offset):
            scale = 1 + weight if unit_offset else weight
            return x / np.sqrt((x * x).mean(axis=-1, keepdims=True) + eps) * scale
        case LayerNorm(eps, has_bias):
            d = x - x.mean(axis=-1, keepdims=True)
            y = d / np.sqrt((d * d).mean(axis=-1, keepdims=True) + eps) * weight
            return y + bias if has_bias else y
        case NoNorm():
            return x


def rotary_angles(rope, size, positions):
    """Cosines and sines of each position and pair. (..., T) -> (..., T, R/2) each.

    Pair i turns by theta^(-2 i / R) radians a position; the scalings slow the turning, and yarn
    also multiplies both by 0.1 ln(factor) + 1.
    Sources: Su et al. 2021, arXiv:2104.09864, section 3.4.2; the scalings in hermes.spec.
    """
    frequency, magnitude = np.empty(size // 2), 1.0
    for i in range(size // 2):
        plain = rope.theta ** (-2 * i / size)
        wavelength = 2 * math.pi / plain
        match rope.scaling:
            case None:
                frequency[i] = plain
            case LinearScaling(factor):
                frequency[i] = plain / factor
            case Llama3Scaling(factor, low, high, original):
                if wavelength < original / high:
                    frequency[i] = plain
                elif wavelength > original / low:
                    frequency[i] = plain / factor
                else:
                    smooth = (original / wavelength - low) / (high - low)
                    frequency[i] = (1 - smooth) * plain / factor + smooth * plain
            case YarnScaling(factor, original, fast, slow):
                per_turn = size / (2 * math.log(rope.theta))
                first = per_turn * math.log(original / (fast * 2 * math.pi))
                last = per_turn * math.log(original / (slow * 2 * math.pi))
                first, last = max(math.floor(first), 0), min(math.ceil(last), size - 1)
                width = last - first if last > first else 1e-3
                ramp = min(max((i - first) / width, 0.0), 1.0)
                frequency[i] = ramp * plain / factor + (1 - ramp) * plain
                magnitude = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
    angle = positions[..., None] * frequency
    return magnitude * np.cos(angle), magnitude * np.sin(angle)


def rotate(x, cos, sin):
    """Turn pairs (x[i], x[i + R/2]) of the leading R elements by their position's angle.

    (B, H, T, D) -> same. cos, sin: (T, R/2) or (B, T, R/2). Half-split pairs, as in Llama.
    Source: Su et al. 2021, arXiv:2104.09864, eq. 34.
    """
    half = cos.shape[-1]
    cos, sin = cos[..., None, :, :], sin[..., None, :, :]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def alibi_slopes(heads):
    """Slope of head h of H: 2^(-8 (h + 1) / H); Press et al. 2021 for H that is no power of two."""
    if heads & (heads - 1) == 0:
        return [2.0 ** (-8.0 * (h + 1) / heads) for h in range(heads)]
    power = 1 << (heads.bit_length() - 1)
    return alibi_slopes(power) + alibi_slopes(2 * power)[0::2][: heads - power]


def attention(q, k, v, spec, slopes, ctx, site):
    """Attention of every query to the keys it may see. q (B, H, T, D), k, v (B, K, S, D) -> q's.

    softmax(cap(scale q.k) - slope distance) v, where a query sees no later key if causal, only its
    own document's, and of those the last window_size. Query head h reads key head h K / H.
    """
    B, H, T, D = q.shape
    k = k.repeat(H // k.shape[1], axis=1)  # (B, H, S, D)
    v = v.repeat(H // v.shape[1], axis=1)  # (B, H, S, D)
    scores = spec.score_scale * (q @ k.swapaxes(2, 3))  # (B, H, T, S)
    if spec.softcap is not None:
        scores = soft_cap(scores, spec.softcap)
    relative_positions = ctx.indices(T)[:, None] - np.arange(k.shape[2])[None, :]  # (T, S)
    if slopes is not None:
        scores = scores - np.asarray(slopes)[:, None, None] * abs(relative_positions)
    scores = np.where(ctx.attention_mask(relative_positions, spec), scores, -np.inf)
    p = ctx.dropout(softmax(scores), spec.dropout, site)
    return p @ v

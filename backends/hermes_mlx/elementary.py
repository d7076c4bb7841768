"""Functions of single elements: activations, and what they are made of.

Two variants where MLX's own is not exact in float64: ops.py says why, and has them in its tables.
"""

import math

import mlx.core as mx
from mlx.core import array as Array

from hermes_mlx.erf import erf
from hermes_mlx.loss import upcast

# Elements up to which one operation of MLX's, whose exponentials are slow, is faster on a CPU than
# several that make it from power(e, x).
FEW = 1024


def multiply(x: Array, factor: float | None) -> Array:
    """x times a number, or x for None."""
    # MLX would round the number to x's dtype: in bfloat16, to three digits.
    return x if factor is None else (factor * upcast(x)).astype(x.dtype)


def clip(x: Array, bound: float) -> Array:
    """min(max(x, -bound), bound)."""
    return mx.minimum(mx.maximum(x, -bound), bound)


def exp(x: Array) -> Array:
    """e^x, exact in float64 too, where mx.exp is not."""
    return mx.power(math.e, x)


def sigmoid_exact(x: Array) -> Array:
    """1 / (1 + exp(-x)), written out."""
    # Without the bound exp(-x) of a very negative x is inf, and the gradient inf / inf.
    return 1 / (1 + exp(mx.minimum(-x, 80)))


def silu(x: Array) -> Array:
    """x / (1 + exp(-x)). Source: Elfwing et al. 2017, arXiv:1702.03118."""
    return x * mx.sigmoid(x)


def silu_exact(x: Array) -> Array:
    """silu, written out."""
    # Without the bound exp(-x) of a very negative x is inf, and the gradient inf / inf.
    return x / (1 + exp(mx.minimum(-x, 80)))


def silu_plain(x: Array) -> Array:
    """silu, or silu_exact where x is large: the faster of the two on a CPU."""
    return silu(x) if x.size <= FEW else silu_exact(x)


def gelu(x: Array) -> Array:
    """x (1 + erf(x / sqrt 2)) / 2. Source: Hendrycks and Gimpel 2016, arXiv:1606.08415, eq. 1."""
    return x * (1 + mx.erf(x / math.sqrt(2))) / 2


def gelu_exact(x: Array) -> Array:
    """gelu, by an erf that is exact in float64."""
    return x * (1 + erf(x / math.sqrt(2))) / 2


def gelu_tanh(x: Array) -> Array:
    """x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))) / 2. Source: as gelu, section 2."""
    return x * (1 + mx.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x))) / 2


def gelu_tanh_plain(x: Array) -> Array:
    """gelu_tanh, or where x is large x / (1 + exp(-2 u)), u being what it takes tanh of.

    That is the same, as (1 + tanh u) / 2 = 1 / (1 + exp(-2 u)), and the faster of the two on a CPU.
    """
    if x.size <= FEW:
        return gelu_tanh(x)
    slope = 2 * math.sqrt(2 / math.pi)
    # The bound is silu_exact's.
    return x / (1 + exp(mx.minimum(x * (-slope - 0.044715 * slope * (x * x)), 80)))


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return mx.maximum(x, 0)


def relu2(x: Array) -> Array:
    """max(x, 0)^2. Source: So et al. 2021, Primer, arXiv:2109.08668."""
    return mx.square(mx.maximum(x, 0))


def clamp_swiglu(gate: Array, up: Array, limit: float, alpha: float) -> Array:
    """min(gate, limit) sigmoid(alpha min(gate, limit)) (clip(up, -limit, limit) + 1).

    Source: OpenAI 2025, gpt-oss model card, arXiv:2508.10925, and its reference code.
    """
    gate = mx.minimum(gate, limit)
    return gate * mx.sigmoid(multiply(gate, alpha)) * (clip(up, limit) + 1)


def clamp_swiglu_exact(gate: Array, up: Array, limit: float, alpha: float) -> Array:
    """clamp_swiglu, written out."""
    gate = mx.minimum(gate, limit)
    return gate * sigmoid_exact(multiply(gate, alpha)) * (clip(up, limit) + 1)

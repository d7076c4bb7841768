"""Rotary positions: the turning of pairs of elements of queries and keys.

Letters: B batch, T positions, H heads, D head size, R rotated size.
"""

import mlx.core as mx
from mlx.core import array as Array


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotate pairs (x[i], x[i + R/2]) of the first R elements. (B, H, T, D) -> same.

    cos, sin: (T, R/2) or (B, T, R/2). Half-split pairs, as in Llama; others interleave.
    Source: Su et al. 2021, RoFormer, arXiv:2104.09864, eq. 34.
    """
    half = cos.shape[-1]
    cos, sin = cos[..., None, :, :], sin[..., None, :, :]
    wide = x.astype(cos.dtype)
    a, b, rest = wide[..., :half], wide[..., half : 2 * half], wide[..., 2 * half :]
    rotated = [a * cos - b * sin, b * cos + a * sin]
    rotated = [*rotated, rest] if rest.shape[-1] else rotated  # mostly R = D
    return mx.concatenate(rotated, axis=-1).astype(x.dtype)


def rotate_pairs(x: Array, cos: Array, sin: Array) -> Array:
    """rotate to the bit, in three operations instead of seven. (B, H, T, D) -> same.

    cos, sin: `Context.pair_angles`. For passes without a gradient.
    """
    half = cos.shape[-1]
    wide = x.astype(cos.dtype)
    pairs = wide[..., : 2 * half].reshape(*x.shape[:-1], 2, half)
    rotated = (pairs * cos + pairs[..., ::-1, :] * sin).reshape(*x.shape[:-1], 2 * half)
    rest = wide[..., 2 * half :]
    if rest.shape[-1]:  # mostly R = D
        rotated = mx.concatenate([rotated, rest], axis=-1)
    return rotated.astype(x.dtype)

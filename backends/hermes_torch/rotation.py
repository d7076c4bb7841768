"""Rotary position embedding: pairs of elements of queries and keys are rotated.

Letters: B batch, T positions, H heads, D head size, R rotated size.
"""

import torch
from torch import Tensor as Array


def rotate(x: Array, cos: Array, sin: Array) -> Array:
    """Rotate pairs (x[i], x[i + R/2]) of the first R elements. (B, H, T, D) -> same.

    cos, sin: (T, R/2) or (B, T, R/2). Half-split pairs, as in Llama; others interleave.
    Source: Su et al. 2021, RoFormer, arXiv:2104.09864, eq. 34.
    """
    half = cos.shape[-1]
    cos, sin = cos[..., None, :, :], sin[..., None, :, :]
    wide = x.to(cos.dtype)
    a, b, rest = wide[..., :half], wide[..., half : 2 * half], wide[..., 2 * half :]
    return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], -1).to(x.dtype)


def rotate_pairs(x: Array, cos: Array, sin: Array) -> Array:
    """rotate, to the bit, in three operations instead of seven. (B, H, T, D) -> same.

    cos, sin: `Context.pair_angles`. For passes without a gradient.
    """
    half = cos.shape[-1]
    wide = x.to(cos.dtype)
    pairs = wide[..., : 2 * half].unflatten(-1, (2, half))
    rotated = (pairs * cos + pairs.flip(-2) * sin).flatten(-2)
    if 2 * half < x.shape[-1]:  # mostly R = D
        rotated = torch.cat([rotated, wide[..., 2 * half :]], -1)
    return rotated.to(x.dtype)

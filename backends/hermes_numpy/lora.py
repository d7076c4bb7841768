"""Low-rank adapters, as the weights that they amount to. NumPy, float64."""

import math
from collections.abc import Sequence

import numpy as np
from numpy import ndarray as Array

from hermes.recipe import Lora


def merge_adapter(weight: Array, a: Array, b: Array, lora: Lora) -> Array:
    """W + scale B A, whose product with x is W x + scale B (A x).

    scale is alpha / rank, with rslora alpha / sqrt(rank). (out, in), (rank, in), (out, rank) ->
    (out, in). Sources: Hu et al. 2021, LoRA, arXiv:2106.09685, eq. 3; Kalajdzievski 2023,
    arXiv:2312.03732, definition 3.
    """
    divisor = math.sqrt(lora.rank) if lora.rslora else lora.rank
    return weight + lora.alpha / divisor * (b @ a)


def measure_rows(weight: Array) -> Array:
    """The length of each row, 1 for a row of zeros. (out, in) -> (out,)."""
    length = np.sqrt((weight * weight).sum(axis=1))
    return np.where(length == 0, 1.0, length)


def scale_rows(weight: Array, magnitude: Array, length: Array) -> Array:
    """DoRA: m V / |V|, where V = W + scale B A. (out, in), (out,), (out,) -> (out, in).

    length: measure_rows(V), which has no derivative: section 4.3 holds it constant.
    Source: Liu et al. 2024, DoRA, arXiv:2402.09353, eq. 5.
    """
    return weight * (magnitude / length)[:, None]


def put_rows(weight: Array, token_ids: Sequence[int], rows: Array) -> Array:
    """The matrix with other rows for some tokens. (V, C), (r,), (r, C) -> (V, C)."""
    result = weight.copy()
    result[list(token_ids)] = rows
    return result

"""Moments rounded at random, operation for operation those of hermes_numpy/moment_format.py."""

import mlx.core as mx
from mlx.core import array as Array

from hermes.numerics.moment_format import BLOCK, MomentFormat
from hermes_mlx.context import lowbias32

MANTISSA = 20  # bits of a float32's mantissa that a code does not have


def draw_element_bits(x: Array, key: Array, first: int = 0) -> Array:
    """The random bits of each element of a tensor, uint32, from the key of its rounding, ().

    first: the number of the first element, where x is some of a tensor's rows.
    """
    element = mx.arange(first, first + x.size, dtype=mx.uint32).reshape(x.shape)
    return lowbias32((element * mx.array(0x9E3779B9, mx.uint32)) ^ key)


def round_stochastically(x: Array, key: Array, first: int = 0) -> Array:
    """x in bfloat16, up or down at random, by hermes_numpy/moment_format.py. (...) -> same."""
    x = x.astype(mx.float32)
    bits = x.view(mx.uint32) + (draw_element_bits(x, key, first) >> 16)
    return (bits & mx.array(0xFFFF0000, mx.uint32)).view(mx.float32).astype(mx.bfloat16)


def encode_moments(x: Array, form: MomentFormat, key: Array, first: int = 0) -> tuple[Array, Array]:
    """Codes, and the exponent of each block. (..., n) -> (..., n), (rows, blocks), uint8 both.

    key: uint32, (). first: as `draw_element_bits` has it.
    """
    shape, columns = x.shape, x.shape[-1]
    x = x.astype(mx.float32).reshape(-1, columns)
    rows, size = x.shape[0], mx.abs(x)
    padded = mx.pad(size, [(0, 0), (0, -columns % BLOCK)])
    largest = padded.reshape(rows, -1, BLOCK).max(axis=-1)
    exponents = mx.clip((largest.view(mx.int32) + (2**MANTISSA - 1)) >> 23, 1, 254)
    scale = (exponents << 23).view(mx.float32)
    y = size / mx.repeat(scale, BLOCK, axis=1)[:, :columns]
    bits = draw_element_bits(x, key, first)
    high = (y.view(mx.int32) + (bits >> 12).astype(mx.int32)) >> MANTISSA
    t = y / form.unit
    low = mx.floor(t)
    low = low + ((bits >> 8).astype(mx.float32) * 2.0**-24 < t - low).astype(mx.float32)
    low = mx.minimum(low, 8)
    codes = mx.where(t < 8, low.astype(mx.int32), high - 8 * form.base)
    if form.never_zero:
        codes = mx.maximum(codes, (x > 0).astype(mx.int32))
    if form.has_sign:
        codes = codes + 128 * (x < 0).astype(mx.int32)
    return codes.astype(mx.uint8).reshape(shape), exponents.astype(mx.uint8)


def decode_moments(codes: Array, exponents: Array, form: MomentFormat) -> Array:
    """The numbers of codes, float32. (..., n), (rows, blocks) -> (..., n)."""
    c = codes.reshape(-1, codes.shape[-1]).astype(mx.int32)
    size = c & 127 if form.has_sign else c
    normal = ((size + 8 * form.base) << MANTISSA).view(mx.float32)
    y = mx.where(size < 8, size.astype(mx.float32) * form.unit, normal)
    scale = (exponents.astype(mx.int32) << 23).view(mx.float32)
    y = y * mx.repeat(scale, BLOCK, axis=1)[:, : c.shape[1]]
    return (mx.where(c > 127, -y, y) if form.has_sign else y).reshape(codes.shape)

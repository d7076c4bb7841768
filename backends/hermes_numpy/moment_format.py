"""Moments in 8 bits, as hermes.numerics.moment_format has them, or 16, rounded at random."""

import numpy as np
from numpy import ndarray as Array

from hermes.numerics.moment_format import BLOCK, FORMATS, MomentFormat, count_blocks
from hermes.numerics.randomness import lowbias32

MANTISSA = 20  # bits of a float32's mantissa that a code does not have


def draw_element_bits(x: Array, key: int) -> Array:
    """The random bits of each element of a tensor, uint32, from the key of its rounding."""
    element = np.arange(x.size, dtype=np.uint32).reshape(x.shape)
    return lowbias32((element * np.uint32(0x9E3779B9)) ^ np.uint32(key))


def round_stochastically(x: Array, key: int) -> Array:
    """x with 8 significant bits, as bfloat16 has them, in float64. (...) -> same.

    Of the two neighbours it is the one farther from 0 with the probability of how near that is: the
    16 bits that are cut, plus 16 random ones, carry or do not. What has 8 bits keeps them.
    Source: Gupta et al. 2015, arXiv:1502.02551, section 3.
    """
    x = np.asarray(x, np.float32)
    bits = x.view(np.uint32) + (draw_element_bits(x, key) >> np.uint32(16))
    return (bits & np.uint32(0xFFFF0000)).view(np.float32).astype(np.float64)


def encode_moments(x: Array, form: MomentFormat, key: int) -> tuple[Array, Array]:
    """Codes, and the exponent of each block. (..., n) -> (..., n), (rows, blocks), uint8 both.

    The exponent is that of the block's largest number, rounded up to 3 bits of mantissa, so that no
    code overflows. Below it a number lies between two codes and takes the upper one with the
    probability of how near that is, decided by the hash of the key and of its place, so that means
    over steps are kept. A number that has a code keeps it: encoding again changes nothing.
    Sources: Dettmers et al. 2022, arXiv:2110.02861, for blocks; Rouhani et al. 2023,
    arXiv:2310.10537, for the shared power of two; Gupta et al. 2015, arXiv:1502.02551, section 3,
    for the rounding.
    """
    shape = x.shape
    x = np.asarray(x, np.float32).reshape(-1, shape[-1])
    rows, columns = x.shape
    padded = np.zeros((rows, count_blocks(columns) * BLOCK), np.float32)
    padded[:, :columns] = np.abs(x)
    largest = padded.reshape(rows, -1, BLOCK).max(-1)
    exponents = np.clip((largest.view(np.int32) + (2**MANTISSA - 1)) >> 23, 1, 254)
    scale = (exponents << 23).astype(np.int32).view(np.float32)
    y = np.abs(x) / np.repeat(scale, BLOCK, 1)[:, :columns]
    bits = draw_element_bits(x, key)
    high = (y.view(np.int32) + (bits >> np.uint32(12)).astype(np.int32)) >> MANTISSA
    t = y / np.float32(form.unit)
    low = np.floor(t)
    low = low + ((bits >> np.uint32(8)).astype(np.float32) * np.float32(2.0**-24) < t - low)
    low = np.minimum(low, 8)
    codes = np.where(t < 8, low.astype(np.int32), high - 8 * form.base)
    if form.never_zero:
        codes = np.maximum(codes, x > 0)
    if form.has_sign:
        codes = codes + 128 * (x < 0)
    return codes.astype(np.uint8).reshape(shape), exponents.astype(np.uint8)


def decode_moments(codes: Array, exponents: Array, form: MomentFormat) -> Array:
    """The numbers of codes, float32. (..., n), (rows, blocks) -> (..., n)."""
    c = codes.reshape(-1, codes.shape[-1]).astype(np.int32)
    size = c & 127 if form.has_sign else c
    normal = ((size + 8 * form.base) << MANTISSA).astype(np.int32).view(np.float32)
    y = np.where(size < 8, size.astype(np.float32) * np.float32(form.unit), normal)
    scale = (exponents.astype(np.int32) << 23).view(np.float32)
    y = y * np.repeat(scale, BLOCK, 1)[:, : c.shape[1]]
    return (np.where(c > 127, -y, y) if form.has_sign else y).reshape(codes.shape)


def round_to_float8(x: Array, slot: str, key: int) -> Array:
    """What is left of a moment that is kept in 8 bits, in float64. (..., n) -> same."""
    form = FORMATS[slot]
    return decode_moments(*encode_moments(x, form, key), form).astype(np.float64)


def measure_units(x: Array, form: MomentFormat) -> Array:
    """At most the distance of each number that has a code to its neighbours. (..., n) -> same."""
    x = np.asarray(x, np.float64)
    wide = np.abs(x).reshape(-1, x.shape[-1])
    padded = np.pad(wide, ((0, 0), (0, -wide.shape[1] % BLOCK)))
    largest = padded.reshape(len(wide), -1, BLOCK).max(-1)
    least = np.repeat(np.exp2(np.frexp(largest)[1]) * form.unit, BLOCK, 1)[:, : wide.shape[1]]
    return np.maximum(np.exp2(np.frexp(wide)[1] - 4.0), least).reshape(x.shape)

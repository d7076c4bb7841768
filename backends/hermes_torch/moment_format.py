"""Moments rounded at random, operation for operation those of hermes_numpy/moment_format.py."""

from dataclasses import dataclass

import torch
from torch import Tensor as Array

from hermes.numerics.moment_format import BLOCK, MomentFormat
from hermes_torch.context import as_int32, lowbias32
from hermes_torch.optim import split_rows

MANTISSA = 20  # bits of a float32's mantissa that a code does not have


def draw_element_bits(x: Array, key: int, first: int = 0) -> Array:
    """The random bits of each element of a tensor, int32, from the key of its rounding.

    first: number of x's first element in the whole tensor, of which x may be some rows.
    """
    element = torch.arange(x.numel(), dtype=torch.int32, device=x.device).reshape(x.shape)
    element = element + as_int32(first % 2**32)
    return lowbias32((element * as_int32(0x9E3779B9)) ^ as_int32(key))


def round_stochastically(x: Array, key: int, first: int = 0) -> Array:
    """x in bfloat16, up or down at random, by hermes_numpy/moment_format.py. (...) -> same."""
    x = x.to(torch.float32).contiguous()
    bits = x.view(torch.int32) + ((draw_element_bits(x, key, first) >> 16) & 0xFFFF)
    return (bits & -0x10000).view(torch.float32).to(torch.bfloat16)


def encode_moments(x: Array, form: MomentFormat, key: int, first: int = 0) -> tuple[Array, Array]:
    """Codes, and the exponent of each block. (..., n) -> (..., n), (rows, blocks), uint8 both.

    first: number of x's first element in the whole tensor, of which x may be some rows.
    """
    shape, (rows, columns) = x.shape, (x.numel() // x.shape[-1], x.shape[-1])
    x = x.to(torch.float32).reshape(rows, columns)
    size = x.abs()
    padded = torch.nn.functional.pad(size, (0, -columns % BLOCK))
    largest = padded.unflatten(-1, (-1, BLOCK)).amax(-1)
    exponents = ((largest.view(torch.int32) + (2**MANTISSA - 1)) >> 23).clamp(1, 254)
    scale = (exponents << 23).view(torch.float32)
    y = size / scale.repeat_interleave(BLOCK, 1)[:, :columns]
    bits = draw_element_bits(x, key, first)
    high = (y.view(torch.int32) + ((bits >> 12) & 0xFFFFF)) >> MANTISSA
    t = y / form.unit
    low = t.floor()
    low = low + (((bits >> 8) & 0xFFFFFF).to(torch.float32) * 2.0**-24 < t - low)
    low = low.clamp(max=8)
    codes = torch.where(t < 8, low.to(torch.int32), high - 8 * form.base)
    if form.never_zero:
        codes = torch.maximum(codes, (x > 0).to(torch.int32))
    if form.has_sign:
        codes = codes + ((x < 0).to(torch.int32) << 7)  # with 128 times it, of int64
    return codes.to(torch.uint8).reshape(shape), exponents.to(torch.uint8)


def decode_moments(codes: Array, exponents: Array, form: MomentFormat) -> Array:
    """The numbers of codes, float32. (..., n), (rows, blocks) -> (..., n)."""
    c = codes.reshape(-1, codes.shape[-1]).to(torch.int32)
    size = c & 127 if form.has_sign else c
    normal = ((size + 8 * form.base) << MANTISSA).view(torch.float32)
    y = torch.where(size < 8, size.to(torch.float32) * form.unit, normal)
    scale = (exponents.to(torch.int32) << 23).view(torch.float32)
    y = y * scale.repeat_interleave(BLOCK, 1)[:, : c.shape[1]]
    return (torch.where(c > 127, -y, y) if form.has_sign else y).reshape(codes.shape)


@dataclass
class ShortMoment:
    """A moment of a tensor in 8 bits, or this process's rows of it.

    first: number of its first element in the whole tensor.
    """

    codes: Array
    exponents: Array
    form: MomentFormat
    first: int = 0

    def read(self, dtype: torch.dtype) -> Array:
        """The numbers."""
        codes = self.codes.reshape(-1, self.codes.shape[-1])
        x = torch.empty(codes.shape, dtype=dtype, device=codes.device)
        for some, c, exponents in split_rows(x, codes, self.exponents):
            some.copy_(decode_moments(c, exponents, self.form))
        return x.reshape(self.codes.shape)

    def write(self, x: Array, key: int) -> None:
        """Keep other numbers, rounded by the key of this step."""
        parts, first = [], self.first
        for (rows,) in split_rows(x.reshape(-1, x.shape[-1])):
            parts.append(encode_moments(rows, self.form, key, first))
            first += rows.numel()
        codes, self.exponents = map(torch.cat, zip(*parts, strict=True))
        self.codes = codes.reshape(x.shape)

    def compute_digest(self) -> Array:
        """A sum of the codes and exponents, int64. -> ()."""
        codes, exponents = self.codes.sum(dtype=torch.int64), self.exponents.sum(dtype=torch.int64)
        return codes + 65537 * exponents


@dataclass
class StochasticMoment:
    """A moment of a tensor in bfloat16 that is rounded at random, or this process's rows of it.

    first: number of its first element in the whole tensor.
    """

    values: Array
    first: int = 0

    def read(self, dtype: torch.dtype) -> Array:
        """The numbers."""
        return self.values.to(dtype)

    def write(self, x: Array, key: int) -> None:
        """Keep other numbers, rounded by the key of this step."""
        if self.values.shape != x.shape:
            self.values = torch.empty(x.shape, dtype=torch.bfloat16, device=x.device)
        first = self.first
        for rows, kept in split_rows(x, self.values):
            kept.copy_(round_stochastically(rows, key, first))
            first += rows.numel()

    def compute_digest(self) -> Array:
        """A sum of the words, int64. -> ()."""
        return self.values.view(torch.int16).sum(dtype=torch.int64)


KeyedMoment = ShortMoment | StochasticMoment

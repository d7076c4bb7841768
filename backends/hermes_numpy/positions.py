"""RoPE's angles and ALiBi's slopes: apart from hermes.numerics.positions, which they judge."""

import math

import numpy as np
from numpy import ndarray as Array

from hermes.spec import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    YarnScaling,
)


def rotary_angles(rope: Rope, size: int, positions: Array, length: int) -> tuple[Array, Array]:
    """Cosine and sine of the angle of each position and pair. (..., T) -> (..., T, R/2) each.

    Pair i of R / 2 rotates by theta^(-2 i / R) radians per position. Scalings lower that frequency,
    and yarn and longrope also multiply cosines and sines. length: of the row or the KV cache.
    Sources: Su et al. 2021, RoFormer, arXiv:2104.09864, section 3.4.2; of the scalings in
    hermes.spec.rope.
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
            case YarnScaling(factor, original, fast, slow, given, truncate):
                per_turn = size / (2 * math.log(rope.theta))
                first = per_turn * math.log(original / (fast * 2 * math.pi))
                last = per_turn * math.log(original / (slow * 2 * math.pi))
                if truncate:
                    first, last = math.floor(first), math.ceil(last)
                first, last = max(first, 0), min(last, size - 1)
                width = last - first if last > first else 1e-3
                ramp = min(max((i - first) / width, 0.0), 1.0)
                frequency[i] = ramp * plain / factor + (1 - ramp) * plain
                usual = 0.1 * math.log(factor) + 1 if factor > 1 else 1.0
                magnitude = usual if given is None else given
            case LongRopeScaling(short, long, original, given):
                assert given is not None, "only specs in ModelSpec.layers are resolved"
                magnitude = given
                frequency[i] = plain / (short[i] if length <= original else long[i])
            case DynamicScaling(factor, original):
                theta = rope.theta
                if length > original:
                    growth = factor * length / original - (factor - 1)
                    theta = theta * growth ** (size / (size - 2))
                frequency[i] = theta ** (-2 * i / size)
    angle = positions[..., None] * frequency
    return magnitude * np.cos(angle), magnitude * np.sin(angle)


def alibi_slopes(heads: int) -> list[float]:
    """Slope of head h of H: 2^(-8 (h + 1) / H).

    Where H is no power of two: those of the next lower power P, then of 2 P heads every other one.
    Source: Press et al. 2021, ALiBi, arXiv:2108.12409, section 3, and the authors' code.
    """
    if heads & (heads - 1) == 0:
        return [2.0 ** (-8.0 * (h + 1) / heads) for h in range(heads)]
    power = 1 << (heads.bit_length() - 1)
    return alibi_slopes(power) + alibi_slopes(2 * power)[0::2][: heads - power]

"""Moments in 8 bits: numbers of 8 bits in blocks that share a power of two, rounded at random.

A block is up to 256 numbers in a row of the tensor, so rows can be on different ranks. It has one
exponent of 8 bits, and each number a code: of exp_avg a sign, 4 bits of exponent and 3 of mantissa,
of exp_avg_sq, which has no sign, 5 and 3. Formulas: hermes_numpy/moment_format.py.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hermes.numerics.randomness import draw_bits, lowbias32

__all__ = ["BLOCK", "FORMATS", "MomentFormat", "compute_rounding_keys", "count_blocks"]

BLOCK = 256


@dataclass(frozen=True)
class MomentFormat:
    """How the numbers of a slot are coded.

    has_sign: whether the upper bit is one. base: what the exponent of a code adds up with to that
    of a float32. unit: the distance of codes below 8, whose numbers are not normalized.
    never_zero: whether a number above 0 has a code above 0: AdamW divides by its root.
    """

    has_sign: bool
    base: int
    unit: float
    never_zero: bool


FORMATS = {
    "exp_avg": MomentFormat(True, 112, 2.0**-17, False),
    "exp_avg_sq": MomentFormat(False, 96, 2.0**-33, True),
}


def count_blocks(columns: int) -> int:
    """The blocks of a row."""
    return -(-columns // BLOCK)


def compute_rounding_keys(
    seed: int, step: int, tensors: Sequence[tuple[str, str]]
) -> NDArray[np.uint32]:
    """The key of each (slot, name) for the rounding after a step, counted from 1. -> (n,).

    key = lowbias32(lowbias32(CRC-32 of 'slot.name' + low) + high), modulo 2^32, with low and high
    the halves of word number `step` of the stream "moments".
    """
    word = draw_bits(seed, "moments", 1, start=step)
    low, high = word.astype(np.uint32), (word >> np.uint64(32)).astype(np.uint32)
    names = np.array([zlib.crc32(f"{slot}.{name}".encode()) for slot, name in tensors], np.uint32)
    return lowbias32(lowbias32(names + low) + high)

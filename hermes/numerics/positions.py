"""Position tables that depend on the spec alone, in float64 on the host.

Shared by the backends that train, because frameworks compute angles in float32 (MLX also the cosine
of a float64), which is off by 1e-2 at position 100,000. The oracle has its own implementation.
"""

import math

import numpy as np
from numpy.typing import NDArray

from hermes.spec import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    YarnScaling,
)

__all__ = [
    "alibi_slopes",
    "choose_table_length",
    "find_boundaries",
    "rotary_frequencies",
    "rotary_table",
    "segment_positions",
    "yarn_range",
]

Floats = NDArray[np.float64]


def alibi_slopes(heads: int) -> Floats:
    """ALiBi's slope of each head, 2^(-8 h / H) for h = 1 .. H. -> (H,).

    Where H is no power of two: the slopes for the power P below it, then every other slope for 2 P.
    Source: Press et al. 2021, arXiv:2108.12409, section 3, and the authors' code.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    slopes += [2 ** (-4 * (2 * h + 1) / power) for h in range(heads - power)]
    return np.array(slopes)


def choose_table_length(rope: Rope, length: int, max_seq_len: int) -> int:
    """The length of the table that a row or a KV cache of this length uses.

    It is max_seq_len where all lengths share one table, as they do except under longrope, which has
    two, and dynamic, which has one for each length beyond the original one.
    """
    match rope.scaling:
        case LongRopeScaling(original_max_seq_len=original) if length <= original:
            return min(original, max_seq_len)
        case DynamicScaling(original_max_seq_len=original):
            return max(length, min(original, max_seq_len))
    return max_seq_len


def rotary_frequencies(rope: Rope, size: int, length: int = 0) -> tuple[Floats, float]:
    """RoPE's radians per position of each pair, (size / 2,); and the factor of cosine and sine.

    length: of the row or KV cache, which decides under longrope and dynamic.
    """
    pairs = np.arange(0, size, 2) / size
    plain = 1.0 / rope.theta**pairs
    match rope.scaling:
        case None:
            return plain, 1.0
        case LinearScaling(factor):
            return plain / factor, 1.0
        case Llama3Scaling() as scaling:
            return _scale_llama3(plain, scaling), 1.0
        case YarnScaling() as scaling:
            return _scale_yarn(plain, scaling, rope.theta, size)
        case LongRopeScaling(short, long, original, magnitude):
            assert magnitude is not None, "only specs in ModelSpec.layers are resolved"
            return plain / np.array(long if length > original else short), magnitude
        case DynamicScaling(factor, original):
            growth = max(1.0, 1.0 + factor * (length / original - 1.0))
            theta = rope.theta * growth ** (size / (size - 2))
            return 1.0 / theta**pairs, 1.0


def _scale_llama3(plain: Floats, scaling: Llama3Scaling) -> Floats:
    rotations = scaling.original_max_seq_len * plain / (2 * math.pi)
    ramp = (rotations - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    kept = np.clip(ramp, 0.0, 1.0)
    return kept * plain + (1 - kept) * plain / scaling.factor


def yarn_range(scaling: YarnScaling, theta: float, size: int) -> tuple[float, float]:
    """First and last pair of YaRN's ramp (eq. 22); whole numbers if truncated.

    Unusual lengths and thetas give low > high, an empty ramp.
    """

    def pair(rotations: float) -> float:
        """The pair that makes so many rotations over the original length."""
        turns = scaling.original_max_seq_len / (rotations * 2 * math.pi)
        return size * math.log(turns) / (2 * math.log(theta))

    low, high = pair(scaling.beta_fast), pair(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    return max(low, 0), min(high, size - 1)


def _scale_yarn(
    plain: Floats, scaling: YarnScaling, theta: float, size: int
) -> tuple[Floats, float]:
    low, high = yarn_range(scaling, theta, size)
    ramp = np.clip((np.arange(size // 2) - low) / (max(high - low, 0) or 1e-3), 0.0, 1.0)
    mixed = plain / scaling.factor * ramp + plain * (1 - ramp)
    return mixed, scaling.magnitude


def rotary_table(rope: Rope, size: int, length: int) -> tuple[Floats, Floats]:
    """RoPE's cosines and sines of every position, each (length, size / 2).

    length: as of choose_table_length.
    """
    frequencies, magnitude = rotary_frequencies(rope, size, length)
    angles = np.arange(length)[:, None] * frequencies[None, :]
    return magnitude * np.cos(angles), magnitude * np.sin(angles)


def segment_positions(segments: NDArray[np.integer]) -> NDArray[np.int32]:
    """Positions of tokens in their documents, 0 where a new segment begins. (..., T) -> same."""
    starts = np.ones(segments.shape, bool)
    starts[..., 1:] = segments[..., 1:] != segments[..., :-1]
    index = np.arange(segments.shape[-1], dtype=np.int32)
    return (index - np.maximum.accumulate(np.where(starts, index, 0), axis=-1)).astype(np.int32)


def find_boundaries(segments: NDArray[np.integer]) -> NDArray[np.int32]:
    """Where documents begin in the flattened batch, and the batch's end. (B, T) -> (N + 1,)."""
    begins = np.flatnonzero(segment_positions(segments).ravel() == 0)
    return np.append(begins, segments.size).astype(np.int32)

"""Position tables that depend on the spec alone, in float64 on the host.

Shared by the backends that train, because frameworks compute angles in float32 (MLX also the cosine
of a float64), which is off by 1e-2 at position 100,000. The oracle has its own implementation.
"""

import math

import numpy as np
from numpy.typing import NDArray

from hermes.spec import LinearScaling, Llama3Scaling, Rope, YarnScaling

__all__ = [
    "alibi_slopes",
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


def rotary_frequencies(rope: Rope, size: int) -> tuple[Floats, float]:
    """RoPE's radians per position of each pair, (size / 2,); and the factor of cosine and sine."""
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


def _scale_llama3(plain: Floats, scaling: Llama3Scaling) -> Floats:
    rotations = scaling.original_max_seq_len * plain / (2 * math.pi)
    ramp = (rotations - scaling.low_freq_factor) / (
        scaling.high_freq_factor - scaling.low_freq_factor
    )
    kept = np.clip(ramp, 0.0, 1.0)
    return kept * plain + (1 - kept) * plain / scaling.factor


def yarn_range(scaling: YarnScaling, theta: float, size: int) -> tuple[int, int]:
    """First and last pair of YaRN's ramp (eq. 22).

    Unusual lengths and thetas give low > high, an empty ramp.
    """

    def pair(rotations: float) -> float:
        """The pair that makes so many rotations over the original length."""
        turns = scaling.original_max_seq_len / (rotations * 2 * math.pi)
        return size * math.log(turns) / (2 * math.log(theta))

    low = max(math.floor(pair(scaling.beta_fast)), 0)
    return low, min(math.ceil(pair(scaling.beta_slow)), size - 1)


def _scale_yarn(
    plain: Floats, scaling: YarnScaling, theta: float, size: int
) -> tuple[Floats, float]:
    low, high = yarn_range(scaling, theta, size)
    ramp = np.clip((np.arange(size // 2) - low) / (max(high - low, 0) or 1e-3), 0.0, 1.0)
    mixed = plain / scaling.factor * ramp + plain * (1 - ramp)
    return mixed, 1.0 if scaling.factor <= 1 else 0.1 * math.log(scaling.factor) + 1.0


def rotary_table(rope: Rope, size: int, length: int) -> tuple[Floats, Floats]:
    """RoPE's cosines and sines of every position, each (length, size / 2)."""
    frequencies, magnitude = rotary_frequencies(rope, size)
    angles = np.arange(length)[:, None] * frequencies[None, :]
    return magnitude * np.cos(angles), magnitude * np.sin(angles)


def segment_positions(segments: NDArray[np.integer]) -> NDArray[np.int32]:
    """Positions of tokens in their documents, 0 where a new segment begins. (..., T) -> same."""
    starts = np.ones(segments.shape, bool)
    starts[..., 1:] = segments[..., 1:] != segments[..., :-1]
    index = np.arange(segments.shape[-1], dtype=np.int32)
    return (index - np.maximum.accumulate(np.where(starts, index, 0), axis=-1)).astype(np.int32)

"""Every random number hermes uses, as a function of (seed, purpose, index) and nothing else.

Raw bits of the counter-based generator Philox4x64-10 (Salmon et al. 2011, "Parallel random numbers:
as easy as 1, 2, 3") and exactly rounded arithmetic only, so the numbers are equal to the bit on
every platform, with every release of NumPy, and whatever was drawn before. Imports errors only.
"""

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hermes.errors import HermesError

__all__ = ["draw_bits", "draw_normals", "draw_uniforms", "dropout_row_keys", "lowbias32", "permute"]

CHUNK = 1 << 16  # normals made at a time, in each thread
FEISTEL_ROUNDS = 8
WORDS_PER_COUNT = 4  # of Philox4x64


def _derive_key(seed: int, purpose: str) -> int:
    """The 128-bit key of a stream: SHA-256 of the seed's eight bytes and the purpose, its start."""
    if not 0 <= seed < 2**64:
        raise HermesError(f"seed must be at least 0 and below 2^64, got {seed!r}")
    name = int(seed).to_bytes(8, "little") + purpose.encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:16], "little")


def draw_bits(seed: int, purpose: str, count: int, start: int = 0) -> NDArray[np.uint64]:
    """Words number start .. start + count - 1 of the stream that the purpose names. -> (count,)

    Any part of a stream costs the same to reach.
    """
    if count < 0 or start < 0:
        raise HermesError(f"count and start must be at least 0, got {count} and {start}")
    counter, skipped = divmod(start, WORDS_PER_COUNT)
    generator = np.random.Philox(key=_derive_key(seed, purpose), counter=counter)
    return np.asarray(generator.random_raw(skipped + count)[skipped:], np.uint64)


def draw_uniforms(seed: int, purpose: str, count: int, start: int = 0) -> NDArray[np.float64]:
    """Multiples of 2^-53 in [0, 1), the upper 53 bits of each word. -> (count,)"""
    words = draw_bits(seed, purpose, count, start) >> np.uint64(11)
    return words.astype(np.float64) * 2.0**-53


def draw_normals(
    seed: int, purpose: str, shape: tuple[int, ...], std: float
) -> NDArray[np.float32]:
    """Numbers of mean 0 and standard deviation `std`, close to normal, none beyond 6 std. -> shape

    x = (u1 + ... + u12 - 6 * 65535) * std / sqrt(2^32 - 1), with u the sixteen-bit lanes of three
    words: a sum of twelve uniforms (Irwin-Hall) has excess kurtosis -0.1 and needs no logarithm,
    whose last bit differs between platforms. The sum's variance is 2^32 - 1 exactly. Made in
    chunks, on all cores: beyond the result it needs a few megabytes.
    """
    size = math.prod(shape)
    made = np.empty(size, np.float32)
    scale = std / math.sqrt(2**32 - 1)

    def fill(start: int) -> None:
        chunk = made[start : start + CHUNK]
        sums = _sum_lanes(draw_bits(seed, purpose, 3 * len(chunk), 3 * start))
        chunk[:] = (sums.astype(np.float64) - 6.0 * 65535.0) * scale

    with ThreadPoolExecutor() as pool:
        for _ in pool.map(fill, range(0, size, CHUNK)):
            pass
    return made.reshape(shape)


def _sum_lanes(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Sums of the twelve 16-bit lanes of each three words. (3 N,) -> (N,)"""
    lanes = np.uint64(0x0000FFFF0000FFFF)
    # Two sums side by side, in the halves of a word; neither reaches 2^20.
    pairs = (words & lanes) + ((words >> np.uint64(16)) & lanes)
    halves = pairs[0::3] + pairs[1::3] + pairs[2::3]
    return (halves & np.uint64(0xFFFFFFFF)) + (halves >> np.uint64(32))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Scramble 64 bits. Source: Steele et al. 2014, SplitMix (mix13 of Stafford)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(seed: int, purpose: str, n: int, indices: ArrayLike) -> NDArray[np.int64]:
    """Where a shuffle of range(n) puts each index; no table is made. (K,) -> (K,)

    A bijection for every n from 1 to 2^62: a balanced Feistel network over the next power of four,
    applied until the result falls below n (cycle walking, at most 4 times on average). Sources:
    Luby and Rackoff 1988; Black and Rogaway 2002, "Ciphers with arbitrary finite domains".
    """
    if not 1 <= n <= 2**62:
        raise HermesError(f"a permutation needs from 1 to 2^62 items, got {n}")
    given = np.asarray(indices, np.int64)
    for index in (given.min(initial=0), given.max(initial=0)):
        if not 0 <= index < n:
            raise HermesError(f"index {index} is outside a permutation of {n}")
    half = np.uint64(max(1, ((n - 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = draw_bits(seed, purpose, FEISTEL_ROUNDS)
    result = given.astype(np.uint64).ravel()
    outside = np.arange(result.size)
    while outside.size:
        x = result[outside]
        left, right = x >> half, x & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) >> (np.uint64(64) - half))
        x = (left << half) | right
        result[outside] = x
        outside = outside[x >= np.uint64(n)]
    return result.astype(np.int64).reshape(given.shape)


def lowbias32(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Scramble 32 bits, one to one. Source: Wellons 2018, "Prospecting for hash functions"."""
    x = np.asarray(x, np.uint32)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def dropout_row_keys(seed: int, step: int, rows: ArrayLike) -> NDArray[np.uint32]:
    """The dropout key of each sample row of an update; distinct within the update. (B,) -> (B,)

    step: 1-based number of the update; rows: each sample's number within it, over all processes.
    key = lowbias32(lowbias32(row * 0x9E3779B9 + low) + high), modulo 2^32, with low and high the
    halves of word number `step` of the stream "dropout".
    """
    word = draw_bits(seed, "dropout", 1, start=step)
    low, high = word.astype(np.uint32), (word >> np.uint64(32)).astype(np.uint32)
    spread = np.asarray(rows).astype(np.uint32) * np.uint32(0x9E3779B9)
    return lowbias32(lowbias32(spread + low) + high)

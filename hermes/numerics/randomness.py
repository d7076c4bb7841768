"""All random numbers of hermes, as functions of (seed, purpose, index) and nothing else.

Made from raw bits of the counter-based generator Philox4x64-10 (Salmon et al. 2011, "Parallel
random numbers: as easy as 1, 2, 3") with exactly rounded arithmetic only. They are therefore
bitwise equal on every platform, with every release of NumPy, and whatever was drawn before.
Imports errors only.
"""

import hashlib
import math
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hermes.errors import HermesError

__all__ = [
    "check_seed",
    "draw_bits",
    "draw_normals",
    "draw_uniforms",
    "dropout_row_keys",
    "invert_permutation",
    "lowbias32",
    "permute",
]

CHUNK = 1 << 16  # normals that a thread makes at a time
FEISTEL_ROUNDS = 8
WORDS_PER_COUNT = 4  # Philox4x64 makes four words for each value of its counter


def check_seed(seed: int) -> None:
    """Raise HermesError for what is no seed of a stream."""
    if not 0 <= seed < 2**64:
        raise HermesError(f"seed must be at least 0 and below 2^64, got {seed!r}")


def _derive_key(seed: int, purpose: str) -> int:
    """Derive a stream's 128-bit key: the start of SHA-256 of the seed's 8 bytes and the purpose."""
    check_seed(seed)
    name = int(seed).to_bytes(8, "little") + purpose.encode()
    return int.from_bytes(hashlib.sha256(name).digest()[:16], "little")


def draw_bits(seed: int, purpose: str, count: int, start: int = 0) -> NDArray[np.uint64]:
    """Draw words start .. start + count - 1 of the stream for a purpose. -> (count,).

    The cost does not depend on `start`.
    """
    if count < 0 or start < 0:
        raise HermesError(f"count and start must be at least 0, got {count} and {start}")
    counter, skipped = divmod(start, WORDS_PER_COUNT)
    generator = np.random.Philox(key=_derive_key(seed, purpose), counter=counter)
    return np.asarray(generator.random_raw(skipped + count)[skipped:], np.uint64)


def draw_uniforms(seed: int, purpose: str, count: int, start: int = 0) -> NDArray[np.float64]:
    """Draw uniforms: multiples of 2^-53 in [0, 1), the upper 53 bits of a word. -> (count,)."""
    words = draw_bits(seed, purpose, count, start) >> np.uint64(11)
    return words.astype(np.float64) * 2.0**-53


def draw_normals(
    seed: int, purpose: str, shape: tuple[int, ...], std: float
) -> NDArray[np.float32]:
    """Draw nearly normal numbers with mean 0 and standard deviation `std`, within 6 std. -> shape.

    x = (u1 + ... + u12 - 6 * 65535) * std / sqrt(2^32 - 1), where u are the 16-bit lanes of three
    words. A sum of twelve uniforms (Irwin-Hall) has an excess kurtosis of -0.1 and needs no
    logarithm, whose last bit differs between platforms. Its variance is 2^32 - 1 exactly. Chunks
    are made on all cores; besides the result this takes a few megabytes.
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
    """Sum the twelve 16-bit lanes of each three words. (3 N,) -> (N,)."""
    lanes = np.uint64(0x0000FFFF0000FFFF)
    # Each half of a word holds a sum of its own; neither reaches 2^20, so no carry crosses over.
    pairs = (words & lanes) + ((words >> np.uint64(16)) & lanes)
    halves = pairs[0::3] + pairs[1::3] + pairs[2::3]
    return (halves & np.uint64(0xFFFFFFFF)) + (halves >> np.uint64(32))


def _mix(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash 64 bits. Source: Steele et al. 2014, SplitMix (Stafford's mix13)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permute(seed: int, purpose: str, n: int, indices: ArrayLike) -> NDArray[np.int64]:
    """Map indices through a pseudorandom permutation of range(n), without a table. (K,) -> (K,).

    A bijection for every n from 1 to 2^62: a balanced Feistel network over the next power of four,
    applied until the result is below n (cycle walking, at most 4 times on average). Sources: Luby
    and Rackoff 1988; Black and Rogaway 2002, "Ciphers with arbitrary finite domains".
    """
    return _walk(seed, purpose, n, indices, forward=True)


def invert_permutation(seed: int, purpose: str, n: int, values: ArrayLike) -> NDArray[np.int64]:
    """Find the indices that `permute` maps to these values: its inverse. (K,) -> (K,)."""
    return _walk(seed, purpose, n, values, forward=False)


def _walk(
    seed: int, purpose: str, n: int, indices: ArrayLike, *, forward: bool
) -> NDArray[np.int64]:
    """Map indices through the network of `permute`, or backwards through it. (K,) -> (K,)."""
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
        # A Feistel network is undone by itself, with its halves and its keys in reverse.
        if not forward:
            left, right = right, left
        for key in keys if forward else keys[::-1]:
            left, right = right, left ^ (_mix(right ^ key) >> (np.uint64(64) - half))
        if not forward:
            left, right = right, left
        x = (left << half) | right
        result[outside] = x
        outside = outside[x >= np.uint64(n)]
    return result.astype(np.int64).reshape(given.shape)


def lowbias32(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """Hash 32 bits, a bijection. Source: Wellons 2018, "Prospecting for hash functions"."""
    x = np.asarray(x, np.uint32)
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x7FEB352D)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def dropout_row_keys(seed: int, step: int, rows: ArrayLike) -> NDArray[np.uint32]:
    """Dropout key of each row of a step; distinct within the step. (...) -> same.

    step: number of the step, from 1. rows: each sample's index in the step, over all ranks.
    key = lowbias32(lowbias32(row * 0x9E3779B9 + low) + high), modulo 2^32, with low and high the
    halves of word number `step` of the stream "dropout".
    """
    word = draw_bits(seed, "dropout", 1, start=step)
    low, high = word.astype(np.uint32), (word >> np.uint64(32)).astype(np.uint32)
    spread = np.asarray(rows).astype(np.uint32) * np.uint32(0x9E3779B9)
    return lowbias32(lowbias32(spread + low) + high)

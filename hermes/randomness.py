"""Every random number that hermes uses: a function of (seed, purpose, index), and nothing else.

Raw bits come from Philox, whose stream NumPy promises to keep; what is made of them uses only
operations that are rounded exactly, so that weights, order and samples are equal to the bit on
every backend, platform and number of processes. Library distributions make no such promise.
"""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hermes.errors import HermesError

__all__ = ["bits", "dropout_row_keys", "lowbias32", "normals", "permuted", "uniforms"]

Words = NDArray[np.uint64]

LANES = 12  # of 16 bits, added up for one normal: three words
CHUNK = 1 << 20


def _key(seed: int, purpose: str) -> int:
    """128 bits that no other (seed, purpose) shares."""
    if not 0 <= seed < 2**64:
        raise HermesError(f"seed must be at least 0 and below 2^64, got {seed}")
    return int.from_bytes(
        hashlib.sha256(f"hermes/{seed}/{purpose}".encode()).digest()[:16], "little"
    )


def bits(seed: int, purpose: str, count: int, start: int = 0) -> Words:
    """Words `start` to `start + count` of the stream, 64 random bits each. (count,)

    Source: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3 (Philox4x64-10).
    """
    generator = np.random.Philox(key=_key(seed, purpose))
    generator.advance(start // 4)  # a counter makes four words
    words: Words = generator.random_raw(start % 4 + count)
    return words[start % 4 :]


def uniforms(seed: int, purpose: str, count: int, start: int = 0) -> NDArray[np.float64]:
    """Numbers in [0, 1), multiples of 2^-53. (count,)"""
    return (bits(seed, purpose, count, start) >> np.uint64(11)) * 2.0**-53


def normals(seed: int, purpose: str, shape: Sequence[int], std: float) -> NDArray[np.float32]:
    """Nearly normal numbers of mean 0 and standard deviation `std`, within 6 of it.

    The sum of twelve 16-bit lanes less its mean, an exact integer, times one constant; rounded
    once to float64 and once to float32. (Irwin and Hall, 1927.)
    """
    flat = np.empty(int(np.prod(shape, dtype=np.int64)), np.float32)
    # The variance of a uniform integer below 2^16 is (2^32 - 1) / 12, twelve times that in all.
    factor = std / np.sqrt(2.0**32 - 1)
    for start in range(0, len(flat), CHUNK):
        count = min(CHUNK, len(flat) - start)
        words = bits(seed, purpose, count * (LANES // 4), start * (LANES // 4))
        lanes = words.astype("<u8", copy=False).view("<u2").reshape(count, LANES)
        total = lanes.sum(axis=1, dtype=np.int64) * 2 - LANES * 65535
        flat[start : start + count] = total * (factor / 2)
    return flat.reshape(tuple(shape))


def _mixed(x: Words, key: np.uint64) -> Words:
    """A 64-bit hash of x under a key: splitmix64's finalizer. Source: Steele et al. 2014."""
    x = x ^ key
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def permuted(seed: int, purpose: str, n: int, indices: ArrayLike) -> NDArray[np.int64]:
    """Where a random permutation of range(n) sends each index, without a table.

    A Feistel network of eight rounds over the smallest square of two that holds n, walked until it
    lands below n; a bijection whatever the rounds do. Source: Black and Rogaway 2002, Ciphers with
    arbitrary finite domains.
    """
    x = np.asarray(indices, np.uint64).copy()
    if x.size and int(x.max()) >= n:
        raise HermesError(f"index {int(x.max())} is outside a permutation of {n}")
    half = np.uint64(max((max(n - 1, 1).bit_length() + 1) // 2, 1))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = bits(seed, purpose, 8)
    walking = np.ones(x.shape, bool)
    while walking.any():
        y = x[walking]
        left, right = y >> half, y & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right, key) & mask)
        y = (left << half) | right
        x[walking] = y
        walking[walking] = y >= np.uint64(n)
    return x.astype(np.int64)


def lowbias32(x: NDArray[np.uint32]) -> NDArray[np.uint32]:
    """A 32-bit hash of each element, for dropout masks. Source: Wellons 2018, hash-prospector."""
    x = x ^ (x >> np.uint32(16))
    x = x * np.uint32(0x7FEB352D)
    x = x ^ (x >> np.uint32(15))
    x = x * np.uint32(0x846CA68B)
    return x ^ (x >> np.uint32(16))


def dropout_row_keys(seed: int, step: int, rows: ArrayLike) -> NDArray[np.uint32]:
    """A key for each sample of update `step`, counted from 1; what its masks are hashed from.

    rows: the sample's number within the update over all processes, so that masks do not depend on
    how the update is split. Same shape as rows.
    """
    base = bits(seed, f"dropout/{step}", 1)[0]
    mixed = _mixed(np.asarray(rows, np.uint64), base)
    return (mixed >> np.uint64(32)).astype(np.uint32)

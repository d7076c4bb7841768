"""How the chunked cross-entropy cuts a micro-batch, so that one chunk's logits exist at a time.

Under a preference loss the derivative of a token's log-probability depends on its whole pair.
Chunks of whole pairs are therefore scored once; a pair that is longer than a chunk is scored twice,
first for its loss and then for its gradient.
"""

import numpy as np
from numpy.typing import NDArray

from hermes.interface import IGNORE

__all__ = ["Span", "count_chunk_tokens", "group_pairs", "index_pair_targets", "make_spans"]

Span = tuple[int, int]
"""First index, and one past the last."""

FEWEST_TOKENS = 320
"""A CPU multiplies few tokens' rows by a head slowly, and reads and writes its gradient for them.

A step of 2,048 tokens on 2 layers of 768 with 50,257 tokens, torch compiled, float32, two cores:
4.21 s in chunks of 160, 4.05 s of 320, 3.98 s of 640 (a process each, `benchmarks/training.py`'s
loop). Of 512 tokens on a layer of 256 with 256,000 tokens, eager, processor seconds: 3.08 in chunks
of 65, 2.72 of 128, 2.58 of 256. With 8,000 tokens larger chunks than 1 << 23 logits are slower, as
they leave the caches.
"""


def count_chunk_tokens(vocabulary: int, logits: int, hidden_size: int = 0) -> int:
    """Count the tokens of a chunk: what `logits` hold, or 320 where twice as many logits do.

    hidden_size: of a backend that keeps few arrays of a chunk, whose chunks may have up to 320
    tokens for as long as their logits are at most half as many as the head has weights. Those are
    read and their gradient is written once a chunk, which otherwise grows faster than the
    vocabulary.
    """
    tokens = logits // vocabulary
    if tokens < FEWEST_TOKENS:
        tokens = min(FEWEST_TOKENS, max(2 * logits // vocabulary, hidden_size // 2))
    return max(1, tokens)


def index_pair_targets(
    targets: NDArray[np.integer], *, everywhere: bool = False
) -> tuple[NDArray[np.int64], tuple[int, ...]]:
    """Find the targets of P pairs, pair by pair, each chosen completion before its rejected one.

    targets (2 P, T): rows 0 to P - 1 are the chosen completions. Returns the indices of targets
    that are not IGNORE in the flattened rows, (N,), and P cumulative counts: how many of them lie
    before each pair's end. With `everywhere`, or if all targets are IGNORE: every index.
    """
    pairs, width = len(targets) // 2, targets.shape[1]
    by_pair = targets.reshape(2, pairs, width).swapaxes(0, 1)  # (P, 2, T)
    kept = by_pair != IGNORE
    kept |= everywhere or not kept.any()
    indices = np.arange(targets.size).reshape(2, pairs, width).swapaxes(0, 1)
    return indices[kept], tuple(np.cumsum(kept.sum((1, 2))).tolist())


def group_pairs(ends: tuple[int, ...], tokens: int) -> list[Span]:
    """Group consecutive pairs so that a group has at most `tokens` tokens, or is a single pair.

    ends: the cumulative counts of `index_pair_targets`.
    """
    groups, first, begin = [], 0, 0  # the group's first pair, and that pair's first token
    for pair, end in enumerate(ends):
        if pair > first and end - begin > tokens:
            groups.append((first, pair))
            first, begin = pair, ends[pair - 1]
    return [*groups, (first, len(ends))]


def make_spans(begin: int, end: int, tokens: int) -> list[Span]:
    """Cut begin .. end into spans of at most `tokens`; an empty range gives one empty span."""
    starts = range(begin, max(end, begin + 1), tokens)
    return [(start, min(start + tokens, end)) for start in starts]

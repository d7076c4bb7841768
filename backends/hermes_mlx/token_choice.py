"""The choice of tokens on the device: what hermes.inference.filters does to each row of logits.

In float64 on a CPU; a GPU has float32 alone, whose sums are taken in blocks, so that they err by a
few of its last bits however large the vocabulary is. Nothing of it is evaluated here.
"""

from collections.abc import Sequence

import mlx.core as mx
from mlx.core import array as Array

from hermes.interface import TokenChoice

__all__ = ["choose_tokens"]

BLOCK = 512
LEAST = 1e-30


def choose_tokens(
    logits: Array,
    choices: Sequence[TokenChoice],
    uniforms: Sequence[float],
    vocab_size: int,
    dtype: mx.Dtype,
) -> Array:
    """Choose a token of each row; -1 where its greatest logit is not finite. (B, V) -> (B,) int32

    dtype: the widest that the device has. The first of equals counts as the greater.
    """
    x = logits[:, :vocab_size]
    top = x.max(axis=-1, keepdims=True)
    chosen = mx.argmax(x, axis=-1).astype(mx.int32)  # the first of equals
    if any(one.temperature > 0 for one in choices):
        drawn = _sample(x.astype(dtype), choices, uniforms)
        chosen = mx.where(mx.array([one.temperature > 0 for one in choices]), drawn, chosen)
    is_number = mx.isfinite(top[:, 0]) & ~mx.isnan(x).any(axis=-1)
    return mx.where(is_number, chosen, -1)


def _sample(x: Array, choices: Sequence[TokenChoice], uniforms: Sequence[float]) -> Array:
    """Filter and draw each row, those of temperature 0 for nothing. (B, V) -> (B,) int32"""
    size = x.shape[1]
    sampled = [one for one in choices if one.temperature > 0]

    def make_column(values: list[float]) -> Array:
        return mx.array(values, x.dtype)[:, None]  # (B, 1)

    # Below LEAST, which float32 has, only the greatest logits have a probability, as with it.
    temperature = make_column([max(one.temperature, LEAST) for one in choices])
    p = mx.exp((x - x.max(axis=-1, keepdims=True)) / temperature)
    if any(0 < one.top_k < size for one in sampled):
        limits = [one.top_k if 0 < one.top_k < size else size for one in choices]
        p = _keep_largest(p, x, limits)
    if any(one.top_p < 1 for one in sampled):
        p = _keep_most_probable(p, make_column([one.top_p for one in choices]))
    if any(one.min_p > 0 for one in sampled):
        p = mx.where(p >= make_column([one.min_p for one in choices]), p, 0.0)  # the greatest is 1
    return _draw(p, make_column(list(uniforms)))


def _keep_largest(p: Array, x: Array, limits: list[int]) -> Array:
    """Zero all but the k greatest of each row. (B, V), (B, V) -> (B, V)"""
    size = x.shape[1]
    most = max((k for k in limits if k < size), default=1)
    values = mx.sort(mx.topk(x, most, axis=-1), axis=-1)  # (B, most), ascending
    places = mx.array([most - min(k, most) for k in limits])[:, None]
    last = mx.take_along_axis(values, places, axis=-1)
    counts = mx.array(limits)[:, None]
    return mx.where(_keep_until(x, last, counts) | (counts >= size), p, 0.0)


def _keep_most_probable(p: Array, share: Array) -> Array:
    """Zero all but the fewest most probable that sum to a share. (B, V), (B, 1) -> (B, V)"""
    ordered = -mx.sort(-p, axis=-1)
    sums = compute_sums(ordered)
    count = (sums - ordered < share * sums[:, -1:]).sum(axis=-1, keepdims=True)
    last = mx.take_along_axis(ordered, mx.maximum(count - 1, 0), axis=-1)
    return mx.where(_keep_until(p, last, count) | (share >= 1), p, 0.0)


def _keep_until(x: Array, last: Array, count: Array) -> Array:
    """Which `count` elements are the greatest, `last` being the least of them. (B, V), (B, 1)"""
    above, equal = x > last, x == last
    room = count - above.sum(axis=-1, keepdims=True)
    return above | (equal & (mx.cumsum(equal.astype(mx.int32), axis=-1) <= room))


def _draw(p: Array, uniform: Array) -> Array:
    """Invert the cumulative distribution in the order of ids. (B, V), (B, 1) -> (B,) int32"""
    sums = compute_sums(p)
    chosen = (sums <= uniform * sums[:, -1:]).sum(axis=-1)
    # For a uniform just below 1, rounding may give an index past the end, or one of no probability.
    last = mx.where(p > 0, mx.arange(p.shape[1]), 0).max(axis=-1)
    return mx.minimum(chosen, last).astype(mx.int32)


def compute_sums(p: Array) -> Array:
    """Cumulative sums, of blocks and then inside them. (B, V) -> (B, V)"""
    size = p.shape[1]
    if size <= BLOCK:
        return mx.cumsum(p, axis=-1)
    padded = mx.pad(p, [(0, 0), (0, -size % BLOCK)]).reshape(len(p), -1, BLOCK)
    inner = mx.cumsum(padded, axis=-1)
    blocks = mx.cumsum(inner[..., -1], axis=-1)
    before = mx.concatenate([mx.zeros_like(blocks[:, :1]), blocks[:, :-1]], axis=-1)
    return (inner + before[..., None]).reshape(len(p), -1)[:, :size]

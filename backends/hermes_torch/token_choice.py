"""The choice of tokens on the device: what hermes.inference.filters does to each row of logits.

In float64, as there; nothing is read by the host, and shapes depend on no number of the device.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor as Array

from hermes.interface import TokenChoice

__all__ = ["FIELDS", "ChoiceKind", "choose_tokens", "find_kind", "list_settings"]

FIELDS = ("temperature", "top_k", "top_p", "min_p", "uniform")  # of each row, as numbers


@dataclass(frozen=True)
class ChoiceKind:
    """Which filters some row has. largest_k: of top_k, 0 where no row has it."""

    samples: bool
    largest_k: int
    has_top_p: bool
    has_min_p: bool
    vocab_size: int


def find_kind(choices: Sequence[TokenChoice], vocab_size: int) -> ChoiceKind:
    """What the choices of a step's rows have in common."""
    sampled = [one for one in choices if one.temperature > 0]
    return ChoiceKind(
        samples=bool(sampled),
        largest_k=max((one.top_k for one in sampled if one.top_k < vocab_size), default=0),
        has_top_p=any(one.top_p < 1 for one in sampled),
        has_min_p=any(one.min_p > 0 for one in sampled),
        vocab_size=vocab_size,
    )


def list_settings(choices: Sequence[TokenChoice], uniforms: Sequence[float]) -> NDArray[np.float64]:
    """FIELDS of each row. (5, B)"""
    rows = [
        (one.temperature, one.top_k, one.top_p, one.min_p, uniform)
        for one, uniform in zip(choices, uniforms, strict=True)
    ]
    return np.array(rows, np.float64).T.copy()


def choose_tokens(logits: Array, settings: Array, kind: ChoiceKind) -> Array:
    """Choose a token of each row; -1 where its greatest logit is not finite. (B, V) -> (B,)

    settings: FIELDS of each row, (5, B) float64. The first of equals counts as the greater.
    """
    x = logits[:, : kind.vocab_size].double()
    top = x.amax(-1, keepdim=True)  # NaN if any is
    ids = torch.arange(x.shape[1], device=x.device)
    # argmax may name any of equals.
    chosen = torch.where(x == top, ids, x.shape[1] - 1).amin(-1)
    if kind.samples:
        temperature, top_k, top_p, min_p, uniform = settings[:, :, None]  # (B, 1)
        p = ((x - top) / torch.where(temperature > 0, temperature, 1.0)).exp()
        if kind.largest_k:
            p = _keep_largest(p, x, top_k, kind.largest_k)
        if kind.has_top_p:
            p = _keep_most_probable(p, top_p)
        if kind.has_min_p:
            p = torch.where(p >= min_p, p, 0.0)  # the greatest is 1
        chosen = torch.where(temperature[:, 0] > 0, _draw(p, uniform, ids), chosen)
    return torch.where(top[:, 0].isfinite(), chosen, -1)


def _keep_largest(p: Array, x: Array, k: Array, largest_k: int) -> Array:
    """Zero all but the k greatest of each row. (B, V), (B, V), (B, 1) -> (B, V)."""
    values = x.topk(largest_k, dim=-1).values
    has_limit = (k > 0) & (k < x.shape[1])
    last = values.gather(1, (k.clamp(1, largest_k) - 1).long())  # (B, 1)
    return torch.where(_keep_until(x, last, k) | ~has_limit, p, 0.0)


def _keep_most_probable(p: Array, share: Array) -> Array:
    """Zero all but the fewest most probable that sum to a share. (B, V), (B, 1) -> (B, V)."""
    ordered = p.sort(-1, descending=True).values
    before = ordered.cumsum(-1) - ordered
    count = (before < share * p.sum(-1, keepdim=True)).sum(-1, keepdim=True)
    last = ordered.gather(1, (count - 1).clamp(min=0))
    return torch.where(_keep_until(p, last, count) | (share >= 1), p, 0.0)


def _keep_until(x: Array, last: Array, count: Array) -> Array:
    """Which `count` elements are the greatest, `last` being the least of them. (B, V), (B, 1)"""
    above, equal = x > last, x == last
    room = count - above.sum(-1, keepdim=True)
    return above | (equal & (equal.cumsum(-1) <= room))


def _draw(p: Array, uniform: Array, ids: Array) -> Array:
    """Invert the cumulative distribution in the order of ids. (B, V), (B, 1) -> (B,)."""
    sums = p.cumsum(-1)
    chosen = (sums <= uniform * sums[:, -1:]).sum(-1)
    # For a uniform just below 1, rounding may give an index past the end, or one of no probability.
    return torch.minimum(chosen, torch.where(p > 0, ids, 0).amax(-1))

"""Sampling of the next token from its logits: temperature, top-k, top-p, min-p.

In float64 on the host, one row at a time, the same for all backends. The caller passes the one
uniform random number a sample needs.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hermes.arguments import convert_fields
from hermes.errors import HermesError, NonFinite

__all__ = ["GREEDY", "Sampling", "choose", "compute_probabilities"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is sampled.

    temperature divides the logits; 0 is greedy. Then filters apply in this order, each to what the
    one before left: the top_k most probable tokens (0: all); the fewest most probable tokens whose
    probabilities sum to top_p (1: all); tokens at least min_p times as probable as the most
    probable one (0: all). Raises HermesError. Sources: Holtzman et al. 2020, arXiv:1904.09751
    (top-p); Nguyen et al. 2024, arXiv:2407.01082 (min-p).
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        convert_fields(self)
        if not 0 <= self.temperature < math.inf:
            raise HermesError(f"temperature must be at least 0, got {self.temperature!r}")
        if self.top_k < 0:
            raise HermesError(f"top_k must be at least 0, got {self.top_k!r}")
        if not 0 < self.top_p <= 1:
            raise HermesError(f"top_p must be above 0 and at most 1, got {self.top_p!r}")
        if not 0 <= self.min_p <= 1:
            raise HermesError(f"min_p must be from 0 to 1, got {self.min_p!r}")


GREEDY = Sampling(temperature=0.0)


def compute_probabilities(logits: NDArray[np.floating], sampling: Sampling) -> NDArray[np.float64]:
    """Compute each token's probability after all filters. (V,) -> (V,), sums to 1.

    Equal logits rank by id, the lower first. Raises NonFinite where a logit is NaN or the
    largest is infinite.
    """
    x = logits.astype(np.float64)
    top = x.max()
    if not np.isfinite(top) or np.isnan(x).any():
        raise NonFinite("the model's logits are not numbers; its weights may be damaged")
    if sampling.temperature == 0:
        p = np.zeros_like(x)
        p[int(x.argmax())] = 1.0
        return p
    # A temperature near 0 overflows the quotient to -inf, whose exponential, 0, is right.
    with np.errstate(over="ignore"):
        p = np.exp((x - top) / sampling.temperature)
    if sampling.top_k or sampling.top_p < 1:
        order = np.argsort(-x, kind="stable")
        if sampling.top_k:
            p[order[sampling.top_k :]] = 0.0
        if sampling.top_p < 1:
            reached = np.cumsum(p[order])
            kept = int(np.searchsorted(reached, sampling.top_p * reached[-1])) + 1
            p[order[kept:]] = 0.0
    if sampling.min_p > 0:
        p[p < sampling.min_p * p.max()] = 0.0
    return np.asarray(p / p.sum(), dtype=np.float64)


def choose(logits: NDArray[np.floating], sampling: Sampling, uniform: float) -> int:
    """Sample the next token by inverting the cumulative distribution at `uniform`. (V,) -> id

    uniform: from [0, 1). The distribution is cumulated in order of ids, not of probabilities:
    tokens with nearly equal logits then keep their order, and backends whose logits differ by
    rounding choose the same token, unless `uniform` is within that rounding of a boundary.
    """
    if sampling.temperature == 0:
        return int(compute_probabilities(logits, sampling).argmax())
    p = compute_probabilities(logits, sampling)
    edges = np.cumsum(p)
    chosen = int(np.searchsorted(edges, uniform * edges[-1], side="right"))
    # For a uniform just below 1, rounding may give an index past the end, or one of probability 0.
    return chosen if chosen < len(p) and p[chosen] > 0 else int(np.flatnonzero(p)[-1])

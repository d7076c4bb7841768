"""The gradient noise scale: how large a batch must be for its gradient to be more than noise.

A batch of B terms has a gradient of E|g|^2 = |G|^2 + tr(Sigma) / B, where G is the true gradient
and Sigma the covariance of one term's. So the squared norms of a small and a large batch give both,
and the noise scale is tr(Sigma) / |G|^2, in terms: targets, or pairs. Of weighted terms B is
(sum w)^2 / sum w^2, which is what the variance of a weighted mean is divided by.
Source: McCandlish et al. 2018, arXiv:1812.06162, section 2.2 and appendix A.1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from hermes.interface import IGNORE, Batch

__all__ = ["GradientNoise", "RankShare", "estimate_noise", "measure_share"]

DECAY = 0.99


def estimate_noise(
    small: float, big: float, small_inverse: float, big_inverse: float
) -> tuple[float, float] | None:
    """Estimate |G|^2 and tr(Sigma), without bias, from two mean gradients' squared norms.

    The inverses are those of the batches' sizes; of several small batches both numbers are means.
    None where the batches are of one size, as then nothing tells noise from gradient.
    """
    difference = small_inverse - big_inverse
    if difference <= 1e-9 * small_inverse:
        return None
    signal = (big * small_inverse - small * big_inverse) / difference
    return signal, (small - big) / difference


@dataclass(frozen=True)
class RankShare:
    """What one rank has to say of a step's noise; shares of all ranks are added up.

    small: squared norm of the mean gradient of the first micro-batch. small_inverse: 1 over its
    size. count: 1, or 0 without such a gradient. squares: the sum of all its terms' squared
    weights.
    """

    small: float
    small_inverse: float
    count: float
    squares: float

    def estimate(self, norm: float, divisor: float) -> tuple[float, float] | None:
        """|G|^2 and tr(Sigma) of a step, from the sum of all shares; None where not known.

        norm: of the whole step's gradient. divisor: of its loss.
        """
        if not self.count:
            return None
        means = self.small / self.count, self.small_inverse / self.count
        return estimate_noise(means[0], norm * norm, means[1], self.squares / divisor**2)


def measure_share(batch: Batch, first_norm: float | None) -> RankShare:
    """Measure a rank's share of a step by the norm of what its first micro-batch adds."""
    weights = [_list_weights(batch, a) for a in range(len(batch.targets))]
    squares = sum(float(np.square(w).sum()) for w in weights)
    total = float(weights[0].sum()) if weights else 0.0
    if first_norm is None or not total:
        return RankShare(0.0, 0.0, 0.0, squares)
    mean_norm = first_norm * batch.counts.divisor / total
    return RankShare(mean_norm**2, float(np.square(weights[0]).sum()) / total**2, 1.0, squares)


def _list_weights(batch: Batch, a: int) -> NDArray[np.float64]:
    """The weights of the terms of a micro-batch's loss: of its targets, or of its pairs."""
    counted = batch.targets[a] != IGNORE  # (B, T)
    if batch.pairs is not None:
        counted = counted.any(axis=-1)[: len(counted) // 2]  # of pairs the chosen row
    if batch.weights is None:
        return np.ones(int(counted.sum()))
    return np.asarray(batch.weights[a][: len(counted)][counted], np.float64)


@dataclass(frozen=True)
class GradientNoise:
    """Moving averages of |G|^2 and tr(Sigma) over a run's steps, and of 1, all from 0 on.

    Single steps are far too noisy, and a ratio of averages is less biased than an average of
    ratios (appendix A.1). The decay of 0.99 is of about a hundred steps.
    """

    signal: float = 0.0
    noise: float = 0.0
    weight: float = 0.0

    @classmethod
    def from_numbers(cls, numbers: Sequence[float]) -> Self:
        """What `to_numbers` gave; () is the beginning."""
        return cls(*numbers)

    def to_numbers(self) -> tuple[float, ...]:
        """The averages, as a checkpoint keeps them."""
        return self.signal, self.noise, self.weight

    def add(self, estimate: tuple[float, float] | None) -> "GradientNoise":
        """The averages with a step's estimates; the same where it has none."""
        if estimate is None:
            return self
        old, new = DECAY, 1 - DECAY
        return GradientNoise(
            old * self.signal + new * estimate[0],
            old * self.noise + new * estimate[1],
            old * self.weight + new,
        )

    def read(self) -> dict[str, float]:
        """The averages by their names in metrics.jsonl, and the noise scale where it is known.

        {} before the first estimate. An average of |G|^2 may be at or below 0 while it is new.
        """
        if not self.weight:
            return {}
        parts = {
            "grad_signal": self.signal / self.weight,
            "grad_noise": self.noise / self.weight,
        }
        if self.signal <= 0:
            return parts
        return {"grad_noise_scale": self.noise / self.signal, **parts}

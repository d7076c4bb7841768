"""The noise of gradients, from the squared norms of a small and a large batch. NumPy, float64."""

import numpy as np
from numpy import ndarray as Array


def estimate_gradient_noise(
    small_gradient: Array, big_gradient: Array, small_weights: Array, big_weights: Array
) -> tuple[float, float]:
    """Estimate |G|^2 and tr(Sigma) from two mean gradients and the weights of their terms.

    Of b terms, |g|^2 is on average |G|^2 + tr(Sigma) / b, and of weighted ones b = (sum w)^2 /
    sum w^2:
    |G|^2 = (B |g_B|^2 - b |g_b|^2) / (B - b); tr(Sigma) = (|g_b|^2 - |g_B|^2) / (1/b - 1/B).
    Source: McCandlish et al. 2018, arXiv:1812.06162, appendix A.1.
    """
    b, B = (float(w.sum() ** 2 / np.square(w).sum()) for w in (small_weights, big_weights))
    small, big = (float(np.square(g).sum()) for g in (small_gradient, big_gradient))
    return (B * big - b * small) / (B - b), (small - big) / (1 / b - 1 / B)

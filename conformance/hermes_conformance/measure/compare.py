"""What laws yield: how far apart two arrays are, where, and how far they may be."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hermes_conformance.measure.tolerance import Bound


@dataclass(frozen=True)
class Measurement:
    """One comparison: error and bound in the bound's unit; tensor, shape and index say where.

    note: what was seen beside the numbers, such as which kernel ran, for the certificate.
    """

    error: float
    bound: Bound
    tensor: str
    shape: tuple[int, ...] = ()
    index: tuple[int, ...] = ()
    note: str = ""

    @property
    def ratio(self) -> float:
        """Error over bound; above 1 is a failure."""
        if math.isnan(self.error):
            return math.inf
        if self.bound.limit == 0:
            return 0.0 if self.error == 0 else math.inf
        return self.error / self.bound.limit

    @property
    def where(self) -> str:
        """The tensor and the index of the largest error."""
        return f"{self.tensor}{list(self.index)}" if self.index else self.tensor


def rms(x: ArrayLike) -> float:
    """Root mean square of all elements; 0 of an empty array."""
    return float(np.sqrt(np.mean(np.square(x, dtype=np.float64)))) if np.size(x) else 0.0


def compare_relative(
    tensor: str, got: ArrayLike, expected: ArrayLike, bound: Bound, scale: float | None = None
) -> Measurement:
    """Largest |got - expected| over rms(expected), or over `scale`.

    NaN, and a shape that differs, are infinitely far apart.
    """
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    if got.shape != expected.shape:
        return Measurement(math.inf, bound, f"{tensor} of shape {got.shape}", expected.shape)
    if not expected.size:
        return Measurement(0.0, bound, tensor, expected.shape)
    with np.errstate(invalid="ignore", over="ignore"):
        apart = np.abs(got - expected)
    apart = np.where(np.isnan(apart), np.inf, apart)
    index = np.unravel_index(int(apart.argmax()), apart.shape)
    worst = float(apart[index])
    size = rms(expected) if scale is None else scale
    error = worst / size if size > 0 else (0.0 if worst == 0 else math.inf)
    return Measurement(error, bound, tensor, expected.shape, tuple(int(i) for i in index))


def compare_absolute(tensor: str, got: ArrayLike, expected: ArrayLike, bound: Bound) -> Measurement:
    """Largest |got - expected|."""
    return compare_relative(tensor, got, expected, bound, scale=1.0)


def compare_bits(tensor: str, got: ArrayLike, expected: ArrayLike, bound: Bound) -> Measurement:
    """Number of elements that differ. Two NaN are equal; other dtypes or shapes are not."""
    got, expected = np.asarray(got), np.asarray(expected)
    if got.shape != expected.shape or got.dtype != expected.dtype:
        return Measurement(math.inf, bound, f"{tensor}: {got.dtype} {got.shape}", expected.shape)
    differ = got != expected
    if got.dtype.kind == "f":
        differ = differ & ~(np.isnan(got) & np.isnan(expected))
    index = tuple(int(i) for i in np.argwhere(differ)[0]) if differ.any() else ()
    return Measurement(float(differ.sum()), bound, tensor, expected.shape, index)


def compare_values(what: str, got: object, expected: object, bound: Bound) -> Measurement:
    """0 where the two are equal; else 1, with both in its name."""
    if got == expected:
        return Measurement(0.0, bound, what)
    return Measurement(1.0, bound, f"{what}: {_shorten(got)}, expected {_shorten(expected)}")


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."

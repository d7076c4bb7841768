"""Arrays that the oracle computes with in place of float64 ones, so that its code stays simple.

A TracingArray applies a rule to the result of every operation that it takes part in, such as the
rounding of a shorter format; a DualArray carries derivatives too. The weights are wrapped, and all
that is computed from them is wrapped with them.
"""

import math
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

Rule = Callable[[np.ndarray], np.ndarray]

FORMATS = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
# Unit roundoff: half the distance from 1 to the next number, the largest relative rounding error.
UNIT = {"float32": 2.0**-24, "tf32": 2.0**-24, "bfloat16": 2.0**-9, "float16": 2.0**-11}
# The same for inputs of matrix products, in formats that round those more than the results.
PRODUCT_UNIT = {"tf32": 2.0**-11}


class TracingArray(np.ndarray):
    """An ndarray that applies `rule` to results, and `product` to inputs of matrix products."""

    rule: Rule | None = None
    product: Rule | None = None

    def __array_finalize__(self, parent):
        self.rule = getattr(parent, "rule", None)
        self.product = getattr(parent, "product", None)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        plain = [np.asarray(x) for x in inputs]
        if ufunc is np.matmul and self.product is not None:
            plain = [self.product(x) for x in plain]
        return self._wrap_result(self._apply(ufunc, method, plain, kwargs))

    def _apply(self, ufunc, method, plain, kwargs):
        return getattr(ufunc, method)(*plain, **kwargs)

    def __array_function__(self, function, types, args, kwargs):
        result = super().__array_function__(function, types, args, kwargs)
        # Such functions only move elements; the ufuncs that they call have applied the rule.
        return self._as_probe(result) if isinstance(result, np.ndarray) else result

    def _wrap_result(self, result):
        if isinstance(result, tuple) or np.asarray(result).dtype.kind not in "fc":
            return result
        result = np.asarray(result)
        return self._as_probe(result if self.rule is None else self.rule(result))

    def _as_probe(self, array):
        probe = np.asarray(array).view(type(self))
        probe.rule, probe.product = self.rule, self.product
        return probe

    def astype(self, dtype: Any, *args: Any, **kwargs: Any) -> Any:
        """The array itself for float64: its elements are as wide as that already, or complex."""
        if dtype == np.float64 and self.dtype.kind in "fc":
            return self
        result = np.asarray(self).astype(dtype, *args, **kwargs)
        return self._as_probe(result) if result.dtype.kind in "fc" else result


def wrap(array: np.ndarray, rule: Rule, product: Rule | None = None) -> TracingArray:
    """The array in float64, with the rule applied to all that is computed from it."""
    probe = np.asarray(array, np.float64).view(TracingArray)
    probe.rule, probe.product = rule, product
    return probe


def make_noise_rule(rng: np.random.Generator, unit: float) -> Rule:
    """Multiply each element by 1 + unit n, n normal, as rounding with that unit does at random."""

    def rule(x: np.ndarray) -> np.ndarray:
        factor = 1 + unit * rng.standard_normal(x.shape)
        if x.dtype.kind == "c":  # by parts: the product of -inf + 0i with a number is NaN
            return x.real * factor + 1j * (x.imag * factor)
        return x * factor

    return rule


def make_rounding_rule(precision: str) -> Rule:
    """Round each element to the format and back."""
    kind = FORMATS[precision]
    return lambda x: x.astype(kind).astype(np.float64)


class DualArray(TracingArray):
    """x + i h x': the imaginary part of an analytic f is h f'(x) x', exactly, as h -> 0.

    Comparisons and maxima go by the real part, so that relu has its derivative. Real parts less
    than h apart, as products of two steps are, count as equal, and of equal numbers the second is
    the maximum or minimum: so max(x, 0) has the derivative 0 at 0, as specs/numerics.md says.
    """

    def _apply(self, ufunc, method, plain, kwargs):
        if "erf" in ufunc.__name__:
            return erf(plain[0])
        if ufunc is np.absolute and plain[0].dtype.kind == "c":
            return np.where(plain[0].real < 0, -plain[0], plain[0])
        if ufunc is np.maximum and method == "__call__":
            return np.where(np.real(plain[0]) - np.real(plain[1]) > TINY, *plain)
        if ufunc is np.minimum and method == "__call__":
            return np.where(np.real(plain[1]) - np.real(plain[0]) > TINY, *plain)
        return super()._apply(ufunc, method, plain, kwargs)


TINY = 2.0**-300
_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x: np.ndarray) -> np.ndarray:
    """erf(a + ib) for tiny b: erf(a) + i b 2 / sqrt(pi) exp(-a^2)."""
    slope = 2 / math.sqrt(math.pi) * np.exp(-x.real * x.real)
    return _erf(x.real).astype(np.float64) + 1j * x.imag * slope


def make_dual(
    value: np.ndarray,
    direction: np.ndarray | None,
    rule: Rule | None = None,
    product: Rule | None = None,
) -> DualArray:
    """value + i TINY direction, with the rule applied to all that is computed from it."""
    moved = np.asarray(value, np.float64) + 0j
    if direction is not None:
        moved = moved + 1j * TINY * direction
    dual = moved.view(DualArray)
    dual.rule, dual.product = rule, product
    return dual

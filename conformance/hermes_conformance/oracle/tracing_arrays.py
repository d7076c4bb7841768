"""Arrays that pass through the oracle in place of float64 ones, so that its code stays clean.

A Probe is an ndarray that applies a rule to the result of every operation it takes part in:
`noisy` and `rounded` for how a shorter format errs, and `Dual`, whose rule is the complex step, for
derivatives. Weights are wrapped, and everything computed from them follows.
"""

import math
from collections.abc import Callable

import ml_dtypes
import numpy as np

Rule = Callable[[np.ndarray], np.ndarray]

FORMATS = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
# Half the distance from 1 to the next number: the greatest relative rounding error.
UNIT = {"float32": 2.0**-24, "tf32": 2.0**-24, "bfloat16": 2.0**-9, "float16": 2.0**-11}
# The same of what goes into a matrix product, where that is shorter than what comes out.
PRODUCT_UNIT = {"tf32": 2.0**-11}


class Probe(np.ndarray):
    """An ndarray whose every result goes through `rule`, and matrix products' inputs `product`."""

    rule: Rule | None = None
    product: Rule | None = None

    def __array_finalize__(self, parent):
        self.rule = getattr(parent, "rule", None)
        self.product = getattr(parent, "product", None)

    def __array_ufunc__(self, ufunc, method, *inputs, out=None, **kwargs):
        plain = [np.asarray(x) for x in inputs]
        if ufunc is np.matmul and self.product is not None:
            plain = [self.product(x) for x in plain]
        return self._wrapped(self._apply(ufunc, method, plain, kwargs))

    def _apply(self, ufunc, method, plain, kwargs):
        return getattr(ufunc, method)(*plain, **kwargs)

    def __array_function__(self, function, types, args, kwargs):
        result = super().__array_function__(function, types, args, kwargs)
        # These only move elements about; the operations inside went through the rule already.
        return self._as_probe(result) if isinstance(result, np.ndarray) else result

    def _wrapped(self, result):
        if isinstance(result, tuple) or np.asarray(result).dtype.kind not in "fc":
            return result
        result = np.asarray(result)
        return self._as_probe(result if self.rule is None else self.rule(result))

    def _as_probe(self, array):
        probe = np.asarray(array).view(type(self))
        probe.rule, probe.product = self.rule, self.product
        return probe

    def astype(self, dtype, **kwargs):
        """float64 means 'as wide as the oracle computes', which a probe already is."""
        if dtype == np.float64 and self.dtype.kind in "fc":
            return self
        result = np.asarray(self).astype(dtype, **kwargs)
        return self._as_probe(result) if result.dtype.kind in "fc" else result


def wrap(array: np.ndarray, rule: Rule, product: Rule | None = None) -> Probe:
    """The array in float64 with every later result going through the rule."""
    probe = np.asarray(array, np.float64).view(Probe)
    probe.rule, probe.product = rule, product
    return probe


def noisy(rng: np.random.Generator, unit: float) -> Rule:
    """Multiply each element by 1 + unit n, n normal: what rounding to that unit does, at random.

    Source: Parker, Pierce and Eggert 2000, "Monte Carlo arithmetic".
    """

    def rule(x: np.ndarray) -> np.ndarray:
        factor = 1 + unit * rng.standard_normal(x.shape)
        if x.dtype.kind == "c":  # by parts: a product with -inf + 0i is no number
            return x.real * factor + 1j * (x.imag * factor)
        return x * factor

    return rule


def rounded(precision: str) -> Rule:
    """Round each element to the format and back."""
    kind = FORMATS[precision]
    return lambda x: x.astype(kind).astype(np.float64)


class Dual(Probe):
    """x + i h x': analytic functions carry h f'(x) x' in their imaginary part, exactly, as h -> 0.

    Comparisons and maxima go by the real part, so relu has its derivative too; of numbers less than
    h apart, which only products of two steps are, the second is the larger: max(x, 0) at 0 has the
    derivative 0 of specs/numerics.md. Source: Squire and Trapp 1998, "Using complex variables to
    estimate derivatives of real functions".
    """

    def _apply(self, ufunc, method, plain, kwargs):
        if "erf" in ufunc.__name__:
            return erf(plain[0])
        if ufunc is np.absolute and plain[0].dtype.kind == "c":
            return np.where(plain[0].real < 0, -plain[0], plain[0])
        if ufunc is np.maximum and method == "__call__":
            return np.where(np.real(plain[0]) - np.real(plain[1]) > TINY, *plain)
        return super()._apply(ufunc, method, plain, kwargs)


TINY = 2.0**-300
_erf = np.frompyfunc(math.erf, 1, 1)


def erf(x: np.ndarray) -> np.ndarray:
    """erf of a number with a tiny imaginary part: erf(a) + i b 2 / sqrt(pi) exp(-a^2)."""
    slope = 2 / math.sqrt(math.pi) * np.exp(-x.real * x.real)
    return _erf(x.real).astype(np.float64) + 1j * x.imag * slope


def dual(
    value: np.ndarray,
    toward: np.ndarray | None,
    rule: Rule | None = None,
    product: Rule | None = None,
) -> Dual:
    """value + i tiny toward, with every later result going through the rule."""
    moved = np.asarray(value, np.float64) + 0j
    if toward is not None:
        moved = moved + 1j * TINY * toward
    made = moved.view(Dual)
    made.rule, made.product = rule, product
    return made

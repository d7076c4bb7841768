"""erf to the last bits in float64, from operations that MLX computes in double precision.

mx.erf is accurate to float32 whatever the dtype, which is not enough for an exact gelu.
"""

import math
from typing import Any

import mlx.core as mx
from mlx.core import array as Array

Coefficients = tuple[float, ...]

# W. J. Cody, Rational Chebyshev approximations for the error function, Math. Comp. 23 (1969):
# numerators and denominators of the three ranges, lowest power first.
SMALL = (
    (
        3.20937758913846947e03,
        3.77485237685302021e02,
        1.13864154151050156e02,
        3.16112374387056560e00,
        1.85777706184603153e-1,
    ),
    (
        2.84423683343917062e03,
        1.28261652607737228e03,
        2.44024637934444173e02,
        2.36012909523441209e01,
        1.0,
    ),
)
MIDDLE = (
    (
        1.23033935479799725e03,
        2.05107837782607147e03,
        1.71204761263407058e03,
        8.81952221241769090e02,
        2.98635138197400131e02,
        6.61191906371416295e01,
        8.88314979438837594e00,
        5.64188496988670089e-1,
        2.15311535474403846e-8,
    ),
    (
        1.23033935480374942e03,
        3.43936767414372164e03,
        4.36261909014324716e03,
        3.29079923573345963e03,
        1.62138957456669019e03,
        5.37181101862009858e02,
        1.17693950891312499e02,
        1.57449261107098347e01,
        1.0,
    ),
)
LARGE = (
    (
        -6.58749161529837803e-4,
        -1.60837851487422766e-2,
        -1.25781726111229246e-1,
        -3.60344899949804439e-1,
        -3.05326634961232344e-1,
        -1.63153871373020978e-2,
    ),
    (
        2.33520497626869185e-3,
        6.05183413124413191e-2,
        5.27905102951428412e-1,
        1.87295284992346725e00,
        2.56852019228982242e00,
        1.0,
    ),
)


def _evaluate_ratio(polynomials: tuple[Coefficients, Coefficients], x: Array) -> Array:
    """Numerator over denominator at x, each by Horner's rule."""
    values: list[Any] = []
    for coefficients in polynomials:
        y: Any = coefficients[-1]
        for c in reversed(coefficients[:-1]):
            y = y * x + c
        values.append(y)
    return values[0] / values[1]


def _compute_erf(x: Array) -> Array:
    # All three ranges are computed for every element, and the last line chooses: b keeps the
    # latter two finite where they are not chosen. power(e, y) is an exact exp(y): see ops.py.
    a = mx.abs(x)
    small = x * _evaluate_ratio(SMALL, x * x)
    b = mx.clip(a, 0.46875, 6.0)  # erf(6) rounds to 1
    decay = mx.power(math.e, -b * b)
    middle = 1 - decay * _evaluate_ratio(MIDDLE, b)
    c = 1 / (b * b)
    large = 1 - decay / b * (1 / math.sqrt(math.pi) + c * _evaluate_ratio(LARGE, c))
    return mx.where(a <= 0.46875, small, mx.sign(x) * mx.where(a <= 4, middle, large))


# With the derivative in closed form, which is shorter and more exact than that of the ranges.
_erf: Any = mx.custom_function(_compute_erf)


@_erf.vjp
def _differentiate_erf(x: Array, cotangent: Array, _: Array) -> Array:
    return cotangent * (2 / math.sqrt(math.pi)) * mx.power(math.e, -x * x)


def erf(x: Array) -> Array:
    """2 / sqrt(pi) times the integral of exp(-t^2) from 0 to x. (...) -> (...)."""
    return _erf(x)

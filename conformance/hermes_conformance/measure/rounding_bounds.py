"""Bounds of L6, derived from how often a format rounds on the way to a result.

The unit is sigma: how far a result moves in float64 when each weight is off by one rounding of the
format. A product y = W x has one such error in each term of its sums, of standard deviation
u |w x| / sqrt(3). What else rounds on the way from one product to the next moves y about as much:
the rounding of x is as large a relative error of each term, and that of y one of the sum. Counted
in model.py where nothing is fused, the half of a block with more of them, attention, rounds 11
times for its two products behind each other: the norm, W of q, q, its rotation, the score, its
scale, its weight in the softmax, the sum of values, W of o, o and the residual. That is 6 for each
product, rounded up, so the variance of a result is at most 6 sigma^2.
"""

import math

from hermes_conformance.measure.tolerance import Bound

FORWARD = 6  # roundings for each product, the weight's among them
# tf32 rounds the inputs of products alone, some devices by cutting bits off: an error between 0 and
# 2u, whose root mean square is twice that of rounding to nearest.
FORWARD_TF32 = 2 * 4
BACKWARD = 3  # passes' worth of roundings in a gradient: one product forward, two backward
# The logits of a token follow from a state of 48 numbers in the narrowest case. The rms of 48
# normal errors is 1.3 times their standard deviation once in 128 tokens, and that of two draws of
# them 0.8 times: together 1.7.
SPREAD = 2.0
ELEMENT = 6.0  # a token's worst element: normal errors pass 6 sigma once in 10^9


def bound_rounding(precision: str, terms: int, *, backward: bool = False) -> Bound:
    """The bound of a result, in sigma. terms: of the longest sum of products.

    float32 also rounds each partial sum of its products. A sum of n terms from left to right adds
    n / 2 times the variance of one rounding of each term (Higham and Mary 2019, as in
    tolerance.bound_norm_32); shorter formats sum in float32, whose part is nothing beside theirs.
    """
    variance = FORWARD_TF32 if precision == "tf32" else FORWARD
    if precision == "float32":
        variance += terms // 2
    limit = SPREAD * math.sqrt(variance * (BACKWARD if backward else 1))
    why = (
        f"{variance} roundings for each product, each moving the result by at most sigma"
        f"{', in three products for each of the forward pass' if backward else ''}; twice that"
    )
    return Bound(limit, "sigma", why, MEASURED[precision])


def bound_element(precision: str, terms: int) -> Bound:
    """The bound of a token's worst logit."""
    token = bound_rounding(precision, terms)
    return Bound(ELEMENT * token.limit, token.unit, f"6 times a token's: {token.why}", "")


MEASURED = {
    "float32": "8.3 of logits, 5.2 of gradients and 3.0 of updates, on torch 2.13 and mlx 0.32.4 "
    "on a CPU; the smallest planted fault is at 1.7e5",
    "tf32": "not yet on a device",
    "bfloat16": "4.4 of logits, 2.8 of gradients and 2.5 of updates, likewise; the smallest "
    "planted fault is at 49",
    "float16": "2.3 of logits, 1.5 of gradients and 1.5 of updates, likewise",
}

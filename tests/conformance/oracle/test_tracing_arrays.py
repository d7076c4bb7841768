"""Arrays that apply a rule to all that is computed from them."""

import numpy as np

from hermes_conformance.oracle.tracing_arrays import make_dual, make_rounding_rule, wrap
from hermes_numpy.backend import BACKEND as ORACLE
from tests.conformance.support import find_case


def test_a_dual_array_has_the_slopes_of_abs_and_max():
    x = make_dual(np.array([-2.0, 3.0]), np.array([1.0, 1.0]))
    assert np.allclose(np.asarray(abs(x)).imag, [-1, 1] * np.array(2.0**-300))
    assert np.allclose(np.asarray(np.maximum(x, 0)).imag, [0, 2.0**-300])


def test_the_rule_is_applied_at_every_operation_of_the_oracle():
    sizes = []

    def rule(x):
        sizes.append(x.size)
        return x

    case = find_case("default/hot")
    weights = {name: wrap(value, rule) for name, value in case.params.items()}
    got = ORACLE.build(case.spec, weights).logits(case.tokens)
    assert np.array_equal(got, ORACLE.build(case.spec, case.params).logits(case.tokens))
    assert len(sizes) > 100


def test_the_rounding_rule_rounds_to_nearest():
    x = make_rounding_rule("bfloat16")(np.array([1 + 2**-9, 1 + 2**-7]))
    assert x.tolist() == [1.0, 1 + 2**-7]

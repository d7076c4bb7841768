"""Integer cases are exact in their format."""

import numpy as np
import pytest

from hermes_conformance.laws.exact_integers import make_integer_cases
from hermes_conformance.oracle.tracing_arrays import make_rounding_rule
from hermes_numpy.backend import BACKEND as ORACLE


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_integer_cases_are_exact_and_not_empty(precision):
    for case in make_integer_cases(precision):
        values = set(np.concatenate([np.ravel(v) for v in case.params.values()]).tolist())
        assert values == {-1.0, 0.0, 1.0}
        logits = ORACLE.build(case.spec, case.params).logits(case.tokens, case.segments)
        assert np.array_equal(logits, make_rounding_rule(precision)(logits))

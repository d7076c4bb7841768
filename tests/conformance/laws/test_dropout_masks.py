"""The rates of the dropout cases are hashes, and the oracle keeps the element that has the hash."""

import numpy as np
import pytest

from hermes.mal import dumps, loads
from hermes.numerics.randomness import dropout_row_keys
from hermes_conformance.cases.case import RECIPE
from hermes_conformance.laws.dropout_masks import (
    FEWEST,
    NEAR,
    ROWS,
    SITES,
    choose_rate,
    make_dropout_cases,
)
from hermes_numpy.context import Context


@pytest.mark.parametrize("kind", SITES)
def test_one_element_is_at_the_threshold_and_kept(kind):
    rate = choose_rate(kind)
    assert abs(rate - NEAR[kind]) < 0.1
    assert (rate * 2**32).is_integer()
    context = Context(dropout_keys=dropout_row_keys(RECIPE.seed, 1, np.array(ROWS)))
    x = np.ones((len(ROWS), FEWEST))
    kept = context.dropout(x, rate, SITES[kind]) != 0
    beyond = context.dropout(x, rate + 2.0**-32, SITES[kind]) != 0
    assert (kept & ~beyond).sum() == 1
    assert not (beyond & ~kept).any()


def test_the_rates_are_whole_in_mal():
    for case in make_dropout_cases():
        assert loads(dumps(case.spec)).layers == case.spec.layers

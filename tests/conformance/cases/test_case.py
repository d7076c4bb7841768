"""Cases: names, randomness, and what their laws take them for."""

import dataclasses

import numpy as np
import pytest

from hermes_conformance.cases.standard import make_edge_cases, make_objective_cases
from hermes_conformance.laws import LEVELS
from hermes_numpy.backend import BACKEND as ORACLE

UNDECIDED = [case for case in make_objective_cases() if case.name.startswith("undecided.")]


def test_case_names_are_unique_in_a_level():
    for level in LEVELS:
        for long in (False, True):
            names = [case.name for case in level.make_cases(long)]
            assert names
            assert len(names) == len(set(names))


def test_a_case_is_a_function_of_its_name():
    for case in (*make_edge_cases()[:3], *make_objective_cases()[:3]):
        again = dataclasses.replace(case)
        assert np.array_equal(case.batch.tokens, again.batch.tokens)
        assert all(np.array_equal(v, again.params[n]) for n, v in case.params.items())


@pytest.mark.parametrize("case", UNDECIDED, ids=lambda case: case.name)
def test_both_rows_of_an_undecided_pair_are_equally_likely_to_the_last_bit(case):
    model, batch = ORACLE.build(case.spec, case.weights), case.batch
    for a in range(case.A):
        sums = model.row_logprobs(batch.tokens[a], batch.targets[a])
        apart = sums - batch.pairs.reference[a]
        assert np.array_equal(apart[: case.B // 2], apart[case.B // 2 :])
        assert not np.array_equal(batch.tokens[a, : case.B // 2], batch.tokens[a, case.B // 2 :])

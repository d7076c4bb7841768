"""Elementary functions over their range: no coefficient of an approximation goes unseen."""

import pytest

from hermes_conformance.laws import LEVELS, ranges
from hermes_conformance.suite.runner import FAILED, PASSED, judge_case

(VALUES, SLOPES), (FLOAT32,) = ranges.LAWS_64, ranges.LAWS_32
CASES = {case.name.split(".")[1].split("/")[0]: case for case in ranges.make_cases()}


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_every_function_is_the_oracles_over_its_range(backends, backend):
    for law in (VALUES, FLOAT32):
        for case in CASES.values():
            outcome = judge_case(law, case, backends(backend))
            assert outcome.status == PASSED, (law.id, case.name, outcome.worst)
    assert judge_case(SLOPES, CASES["gelu"], backends(backend)).status == PASSED


def test_each_coefficient_of_erf_is_seen(backends, monkeypatch):
    erf, mlx = pytest.importorskip("hermes_mlx.erf"), backends("mlx")
    for part in ("SMALL", "MIDDLE", "LARGE"):
        for n, coefficients in enumerate(plain := getattr(erf, part)):
            for k in range(len(coefficients)):
                changed = [*coefficients]
                changed[k] *= 2
                monkeypatch.setattr(erf, part, (*plain[:n], tuple(changed), *plain[n + 1 :]))
                mlx.subject.forget()
                outcome = judge_case(VALUES, CASES["gelu"], mlx)
                assert outcome.status == FAILED, (part, n, k, outcome.worst)
        monkeypatch.setattr(erf, part, plain)
    mlx.subject.forget()


def test_no_other_law_judges_the_models_of_functions():
    own = {law.id for law in (VALUES, SLOPES, FLOAT32)}
    for level in LEVELS:
        for case in filter(ranges.is_of_ranges, level.make_cases(True)):
            assert {law.id for law in level.laws if law.applies_to(case)} <= own

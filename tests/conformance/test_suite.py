"""The suite's own tools: crossing, fixtures, complex steps, noise, bounds, known failures."""

import dataclasses
import math
from datetime import date
from itertools import combinations

import numpy as np
import pytest

from hermes.errors import HermesError
from hermes_conformance.cases.covering_array import cover
from hermes_conformance.faults.self_test import FAULTS
from hermes_conformance.laws import LEVELS
from hermes_conformance.laws.cases import edges, objectives, standard
from hermes_conformance.laws.exact_integers import integer_cases
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import identical, relative, same
from hermes_conformance.oracle import complex_step
from hermes_conformance.oracle.rounding_noise import DRAWS, divergence, noise
from hermes_conformance.oracle.tracing_arrays import TINY, UNIT, dual, rounded, wrap
from hermes_conformance.suite.runner import EXPECTED, FAILED, PASSED, Outcome, run
from hermes_conformance.suite.selection import chosen, every_law
from hermes_conformance.suite.xfail import excused, read_waivers, strays
from hermes_numpy import ops

BOUND = tolerance.LOGITS_64
LAWS = {law.id: law for law in every_law()}


def case_named(name):
    return next(case for case in standard() if case.name == name)


def test_cover_meets_every_allowed_pair_in_few_rows():
    factors = {name: ("0", "1", "2") for name in "abcd"}
    rows = cover(factors, lambda row: not (row.get("a") == "1" and row.get("b") == "1"))
    assert len(rows) <= 12  # 9 is the least for four factors of three values
    for (a, xs), (b, ys) in combinations(factors.items(), 2):
        for x in xs:
            for y in ys:
                meets = any(row[a] == x and row[b] == y for row in rows)
                assert meets != ((a, b, x, y) == ("a", "b", "1", "1"))
    assert rows == cover(factors, lambda row: not (row.get("a") == "1" and row.get("b") == "1"))


def test_relative_takes_the_worst_element_and_never_forgives_a_nan():
    expected = np.array([[1.0, -1.0], [1.0, -1.0]])
    got = expected.copy()
    got[1, 0] += 1e-9
    measure = relative("x", got, expected, BOUND)
    assert measure.index == (1, 0)
    assert measure.error == pytest.approx(1e-9, rel=1e-6)
    assert measure.ratio > 1
    got[0, 0] = np.nan
    assert relative("x", got, expected, BOUND).ratio == math.inf
    assert relative("x", got[:1], expected, BOUND).ratio == math.inf
    assert relative("x", expected * 0, expected * 0, BOUND).ratio == 0


def test_identical_sees_one_bit_a_dtype_and_a_shape():
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert identical("x", x, x.copy(), tolerance.EXACT).ratio == 0
    assert identical("x", np.nextafter(x, 9), x, tolerance.EXACT).error == 6
    assert identical("x", x.astype(np.float64), x, tolerance.EXACT).ratio == math.inf
    assert identical("x", x.ravel(), x, tolerance.EXACT).ratio == math.inf
    assert same("x", 1, 2, tolerance.EXACT).ratio == math.inf


@pytest.mark.parametrize("name", ["default/hot", "ffn.activation=gelu/hot", "every dropout/hot"])
def test_a_complex_step_is_what_five_points_tend_to(name):
    case = case_named(name)
    toward = complex_step.direction(case, 0)
    _, exact = complex_step.loss_and_slope(case.spec, case.params, toward, case.batch, case.dropout)
    step = 3e-5

    def loss(s):
        moved = {n: w + s * toward[n] for n, w in case.params.items()}
        return complex_step.ORACLE.build(case.spec, moved).loss(case.batch, case.dropout)

    five = 8 * (loss(step) - loss(-step)) - (loss(2 * step) - loss(-2 * step))
    assert five / (12 * step) == pytest.approx(exact, rel=1e-8)


def test_a_dual_number_knows_the_kinks():
    x = dual(np.array([-2.0, 3.0]), np.array([1.0, 1.0]))
    assert np.allclose(np.asarray(abs(x)).imag, [-1, 1] * np.array(2.0**-300))
    assert np.allclose(np.asarray(np.maximum(x, 0)).imag, [0, 2.0**-300])


def test_a_probe_goes_through_the_oracle_and_rounds_every_step():
    seen = []

    def rule(x):
        seen.append(x.size)
        return x

    case = case_named("default/hot")
    weights = {name: wrap(value, rule) for name, value in case.params.items()}
    got = complex_step.ORACLE.build(case.spec, weights).logits(case.tokens)
    assert np.array_equal(
        got, complex_step.ORACLE.build(case.spec, case.params).logits(case.tokens)
    )
    assert len(seen) > 100
    x = rounded("bfloat16")(np.array([1 + 2**-9, 1 + 2**-7]))
    assert x.tolist() == [1.0, 1 + 2**-7]


def test_the_noise_model_grows_with_the_unit(sides):
    case, oracle = case_named("default/hot"), sides("torch").oracle
    short, long = (noise(oracle, case, precision) for precision in ("bfloat16", "float32"))
    ratio = (short.sigma / long.sigma).mean() / (UNIT["bfloat16"] / UNIT["float32"])
    assert 0.3 < ratio < 10
    assert DRAWS == 16
    assert divergence(short.logits, short.logits).max() == 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_integer_cases_are_exact_and_not_empty(precision):
    for case in integer_cases(precision):
        values = set(np.concatenate([np.ravel(v) for v in case.params.values()]).tolist())
        assert values == {-1.0, 0.0, 1.0}
        logits = complex_step.ORACLE.build(case.spec, case.params).logits(
            case.tokens, case.segments
        )
        assert np.array_equal(logits, rounded(precision)(logits))


def test_every_bound_has_a_reason_and_a_measurement():
    bounds = [value for value in vars(tolerance).values() if isinstance(value, tolerance.Bound)]
    assert len(bounds) > 20
    for bound in bounds:
        assert all(len(text) > 1 for text in (bound.unit, bound.why, bound.measured))
        assert bound.limit >= 0


def test_no_bound_stands_anywhere_but_in_tolerance():
    """A number such as 1e-7 in a law would be one."""
    import ast
    from pathlib import Path

    import hermes_conformance.laws as package

    for path in Path(package.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, float):
                small = 0 < abs(node.value) < 1e-4
                assert not small, f"{path.name}:{node.lineno} has {node.value}"


def test_every_law_has_a_fault_that_it_must_catch():
    struck = {fault.law for fault in FAULTS}
    without = set(LAWS) - struck
    assert without <= {"L3/float16"}, without  # no backend computes in it yet
    assert len(FAULTS) >= 60
    names = [fault.name for fault in FAULTS]
    assert len(names) == len(set(names))


def test_case_names_are_unique_in_a_level():
    for level in LEVELS:
        for long in (False, True):
            names = [case.name for case in level.cases(long)]
            assert names
            assert len(names) == len(set(names))


def test_a_case_is_a_function_of_its_name():
    for case in (*edges()[:3], *objectives()[:3]):
        again = dataclasses.replace(case)
        assert np.array_equal(case.batch.tokens, again.batch.tokens)
        assert all(np.array_equal(v, again.params[n]) for n, v in case.params.items())


WAIVER = """
[[xfail]]
law = "L1/log*"
case = "default/*"
reason = "known"
expires = 2030-01-01
"""


def outcome(status, case="default/hot", error=2e-11):
    measure = relative("x", np.array([1.0 + error]), np.array([1.0]), BOUND)
    failures = (measure,) if status == FAILED else ()
    return Outcome(LAWS["L1/logits"], case, status, measure, failures)


def waivers(tmp_path, text=WAIVER):
    path = tmp_path / "xfail.toml"
    path.write_text(text)
    return read_waivers(path)


def test_a_known_failure_is_expected_until_its_day(tmp_path):
    known = waivers(tmp_path)
    judged, complaints = excused([outcome(FAILED)], known, date(2029, 1, 1))
    assert judged[0].status == EXPECTED
    assert judged[0].message == "known"
    assert not complaints
    judged, complaints = excused([outcome(FAILED)], known, date(2030, 1, 2))
    assert judged[0].status == FAILED
    assert complaints == ["L1/log* on default/* was expected to fail until 2030-01-01 only"]


def test_a_known_failure_that_passes_is_reported(tmp_path):
    _, complaints = excused([outcome(PASSED)], waivers(tmp_path), date(2029, 1, 1))
    assert complaints == [
        "L1/log* on default/* was expected to fail and passes; remove it from the xfail file"
    ]
    _, complaints = excused([outcome(PASSED, "other/hot")], waivers(tmp_path), date(2029, 1, 1))
    assert not complaints


def test_an_entry_that_fits_no_case_is_reported_by_a_run_that_was_not_narrowed(tmp_path):
    known = waivers(tmp_path, WAIVER.replace("default/*", "defalt/*"))
    (complaint,) = strays(known, chosen(("L1",)))
    assert complaint.startswith("L1/log* on defalt/* fits no case; see hermes conformance list")
    for selection in (chosen(("L0",)), chosen(("L1",), cases=("default/*",))):
        assert strays(known, selection) == []
    assert strays(waivers(tmp_path), chosen()) == []
    long = WAIVER.replace("default/*", "train.long/*").replace("L1/log*", "L4/*")
    assert strays(waivers(tmp_path, long), chosen()) == []


def test_a_known_failure_beyond_its_limit_fails(tmp_path):
    known = waivers(tmp_path, WAIVER + "limit = 3.0\n")
    (small, large), _ = excused(
        [outcome(FAILED), outcome(FAILED, "default/fresh", 1e-9)], known, date(2029, 1, 1)
    )
    assert (small.status, large.status) == (EXPECTED, FAILED)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "expected [[xfail]] entries only"),
        ("[[xfail]]\nlaw = 'a'", "entry 1 needs case, which is a str"),
        (WAIVER.replace("2030-01-01", "'soon'"), "entry 1 needs expires, which is a date"),
        (WAIVER.replace("-01-01", "-01-01T00:00:00"), "entry 1 needs expires, which is a date"),
        ("xfail = [1]", "entry 1 is 1; expected [[xfail]] with its keys below"),
        (WAIVER + "limit = 40", "entry 1: limit is 40; it must be above 1 and at most 4.0"),
        (WAIVER + "why = 1", "entry 1: unknown key 'why'"),
        (WAIVER.replace("L1/log*", "L9/nothing"), "entry 1: no law is called 'L9/nothing'"),
        ("[[xfail", "not TOML"),
    ],
)
def test_an_xfail_file_that_says_too_little_or_too_much_is_refused(tmp_path, text, message):
    with pytest.raises(HermesError) as error:
        waivers(tmp_path, text)
    assert message in str(error.value)


def test_levels_are_chosen_by_name_or_range():
    assert chosen(("l1", "L3-L5")).levels == ("L1", "L3", "L4", "L5")
    for words in (("L9",), ("L1-",), ("-L1",), ("1",)):
        with pytest.raises(HermesError, match="is unknown"):
            chosen(words)
    with pytest.raises(HermesError, match="dtype 'half' is unknown"):
        chosen(dtypes=("half",))


def test_a_backend_against_itself_is_refused(sides):
    with pytest.raises(HermesError, match="proves nothing"):
        sides("numpy", "numpy")


def test_the_oracle_meets_its_own_vectors(sides):
    """Forward only: it trains nothing."""
    found = sides("torch")
    oracle = dataclasses.replace(found, subject=found.oracle, reference=found.oracle)
    law = LAWS["L1/golden"]
    for case in LEVELS[1].cases(False):
        if case.name.startswith("golden."):
            assert run(law, case, oracle).status == PASSED


@pytest.mark.parametrize(("at", "toward", "slope"), [(2.0, 3.0, 3.0), (-2.0, 3.0, 0.0)])
def test_the_complex_step_goes_through_relu(at, toward, slope):
    y = ops.relu(dual(np.array([at]), np.array([toward])))
    assert y.imag[0] / TINY == slope


@pytest.mark.parametrize("toward", [3.0, -3.0])
def test_the_complex_step_takes_0_for_the_slope_of_relu_at_0(toward):
    x = dual(np.array([0.0]), np.array([toward]))
    for zero in (x, x + x * x):  # the square of a step is no number of its own
        assert ops.relu(zero).imag[0] == 0

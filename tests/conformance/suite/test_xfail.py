"""Files of expected failures."""

from datetime import date

import numpy as np
import pytest

from hermes.errors import HermesError
from hermes_conformance.measure import tolerance
from hermes_conformance.measure.compare import compare_relative
from hermes_conformance.suite.runner import EXPECTED, FAILED, PASSED, Outcome
from hermes_conformance.suite.selection import make_selection
from hermes_conformance.suite.xfail import excuse, find_unmatched, read_expected_failures
from tests.conformance.support import LAWS

ENTRY = """
[[xfail]]
law = "L1/log*"
case = "default/*"
reason = "known"
expires = 2030-01-01
"""


def make_outcome(status, case="default/hot", error=2e-11):
    measurement = compare_relative(
        "x", np.array([1.0 + error]), np.array([1.0]), tolerance.LOGITS_64
    )
    failures = (measurement,) if status == FAILED else ()
    return Outcome(LAWS["L1/logits"], case, status, measurement, failures)


def read_entries(tmp_path, text=ENTRY):
    path = tmp_path / "xfail.toml"
    path.write_text(text)
    return read_expected_failures(path)


def test_a_known_failure_is_expected_until_its_day(tmp_path):
    entries = read_entries(tmp_path)
    judged, complaints = excuse([make_outcome(FAILED)], entries, date(2029, 1, 1))
    assert judged[0].status == EXPECTED
    assert judged[0].message == "known"
    assert not complaints
    judged, complaints = excuse([make_outcome(FAILED)], entries, date(2030, 1, 2))
    assert judged[0].status == FAILED
    assert complaints == ["L1/log* on default/* was expected to fail until 2030-01-01 only"]


def test_a_known_failure_that_passes_is_reported(tmp_path):
    _, complaints = excuse([make_outcome(PASSED)], read_entries(tmp_path), date(2029, 1, 1))
    assert complaints == [
        "L1/log* on default/* was expected to fail and passes; remove it from the xfail file"
    ]
    _, complaints = excuse(
        [make_outcome(PASSED, "other/hot")], read_entries(tmp_path), date(2029, 1, 1)
    )
    assert not complaints


def test_an_entry_that_fits_no_case_is_reported_unless_the_run_is_narrowed(tmp_path):
    entries = read_entries(tmp_path, ENTRY.replace("default/*", "defalt/*"))
    (complaint,) = find_unmatched(entries, make_selection(("L1",)))
    assert complaint.startswith("L1/log* on defalt/* fits no case; see hermes conformance list")
    for selection in (make_selection(("L0",)), make_selection(("L1",), cases=("default/*",))):
        assert find_unmatched(entries, selection) == []
    assert find_unmatched(read_entries(tmp_path), make_selection()) == []
    long = ENTRY.replace("default/*", "train.long/*").replace("L1/log*", "L4/*")
    assert find_unmatched(read_entries(tmp_path, long), make_selection()) == []


def test_a_known_failure_beyond_its_limit_fails(tmp_path):
    entries = read_entries(tmp_path, ENTRY + "limit = 3.0\n")
    (small, large), _ = excuse(
        [make_outcome(FAILED), make_outcome(FAILED, "default/fresh", 1e-9)],
        entries,
        date(2029, 1, 1),
    )
    assert (small.status, large.status) == (EXPECTED, FAILED)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "expected [[xfail]] entries only"),
        ("[[xfail]]\nlaw = 'a'", "entry 1 needs case, which is a str"),
        (ENTRY.replace("2030-01-01", "'soon'"), "entry 1 needs expires, which is a date"),
        (ENTRY.replace("-01-01", "-01-01T00:00:00"), "entry 1 needs expires, which is a date"),
        ("xfail = [1]", "entry 1 is 1; expected [[xfail]] with its keys below"),
        (ENTRY + "limit = 40", "entry 1: limit is 40; it must be above 1 and at most 4.0"),
        (ENTRY + "why = 1", "entry 1: unknown key 'why'"),
        (ENTRY.replace("L1/log*", "L9/nothing"), "entry 1: no law is called 'L9/nothing'"),
        ("[[xfail", "not TOML"),
    ],
)
def test_a_malformed_xfail_file_is_refused(tmp_path, text, message):
    with pytest.raises(HermesError) as error:
        read_entries(tmp_path, text)
    assert message in str(error.value)

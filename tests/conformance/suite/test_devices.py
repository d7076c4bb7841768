"""On a GPU without float64 or determinism, the suite judges what the GPU computes, and says so."""

import pytest

from hermes.interface import find_backend
from hermes_conformance.certificate.issue import (
    describe_passes,
    issue_certificate,
    list_passed_levels,
    seal,
)
from hermes_conformance.certificate.verify import check_certificate
from hermes_conformance.measure.subject import Backends, BackendUnderTest
from hermes_conformance.suite.runner import DECLINED, PASSED, judge
from hermes_conformance.suite.selection import make_selection
from tests.conformance.mac import PlaysMac

LAWS = ("L1/logits", "L2/logits", "L2/gradients", "L3/bfloat16", "L4/repeat", "L4/update")
CASES = ("default/*", "train.gpt2*")


def load(device):
    oracle = BackendUnderTest(find_backend("numpy"))
    return Backends(BackendUnderTest(PlaysMac(), device), oracle, oracle)


@pytest.fixture(scope="module", params=["gpu", None])
def judged(request):
    """The backends, and the outcomes of some laws of each kind."""
    backends = load(request.param)
    return backends, list(judge(backends, make_selection(laws=LAWS, cases=CASES)))


def find(outcomes, law):
    found = [one for one in outcomes if one.law.id == law]
    assert found
    return found


def test_float32_and_bfloat16_are_judged_on_the_gpu(judged):
    _, outcomes = judged
    for law in ("L2/logits", "L3/bfloat16"):
        assert {(one.status, one.devices) for one in find(outcomes, law)} == {(PASSED, ("gpu",))}


def test_float64_is_judged_on_the_cpu_and_told_apart(judged):
    _, outcomes = judged
    for one in find(outcomes, "L1/logits"):
        assert (one.status, one.devices) == (PASSED, ("cpu",))


def test_float64_that_a_law_of_the_gpu_is_compared_with_passes_nothing_itself(judged):
    backends, outcomes = judged
    gradients = find(outcomes, "L2/gradients")
    assert {(one.status, one.devices) for one in gradients} == {(PASSED, ("cpu", "gpu"))}
    certificate = issue_certificate(backends, make_selection(laws=LAWS, cases=CASES), outcomes)
    assert "L2" not in list_passed_levels(certificate)["cpu"]


def test_laws_of_the_core_library_speak_of_no_device():
    backends, selection = load("gpu"), make_selection(laws=("L0/order",))
    certificate = issue_certificate(backends, selection, judge(backends, selection))
    assert not certificate["passed"]
    assert describe_passes(certificate) == "passed nothing on gpu"


def test_a_law_of_bits_asks_for_determinism_and_is_declined(judged):
    _, outcomes = judged
    for one in find(outcomes, "L4/repeat"):
        assert (one.status, one.message) == (DECLINED, "deterministic on 'cpu' only")


def test_determinism_is_asked_for_where_it_is_granted(judged):
    backends, _ = judged
    asked = set(backends.subject.backend.asked)
    assert ("cpu", "float64", True) in asked
    assert ("gpu", "float32", False) in asked
    assert not backends.subject.is_deterministic
    assert load("cpu").subject.is_deterministic


def test_the_certificate_names_the_levels_of_each_device(judged):
    backends, outcomes = judged
    certificate = issue_certificate(backends, make_selection(laws=LAWS, cases=CASES), outcomes)
    assert (certificate["device"], certificate["float64_device"]) == ("gpu", "cpu")
    assert certificate["passed"]
    assert check_certificate(certificate) == []
    assert list_passed_levels(certificate)["gpu"] == ["L2", "L3"]
    assert "L1" in list_passed_levels(certificate)["cpu"]
    assert describe_passes(certificate).startswith("passed L2, L3 on gpu, and in float64 L1")
    assert "float64" not in certificate["precisions"]


def test_what_ran_on_the_cpu_alone_certifies_no_gpu():
    backends, selection = load("gpu"), make_selection(laws=("L1/logits",), cases=("default/*",))
    outcomes = list(judge(backends, selection))
    assert {one.status for one in outcomes} == {PASSED}
    certificate = issue_certificate(backends, selection, outcomes)
    assert not certificate["passed"]
    assert describe_passes(certificate) == "passed nothing on gpu, and in float64 L1 on cpu"
    lie = seal({**certificate, "passed": True})
    assert "it contradicts itself: it passed, and no law that needs the backend did" in (
        check_certificate(lie)
    )


def test_a_level_of_which_everything_was_declined_has_not_passed():
    backends = load("gpu")
    selection = make_selection(laws=("L2/logits", "L4/repeat"), cases=CASES)
    certificate = issue_certificate(backends, selection, judge(backends, selection))
    assert {level["level"]: level["passed"] for level in certificate["levels"]} == {
        "L2": True, "L4": False,
    }  # fmt: skip
    assert certificate["passed"]
    assert describe_passes(certificate) == "passed L2 on gpu"
    levels = [{**level, "passed": True} for level in certificate["levels"]]
    assert "it contradicts itself: L4 passed, and its laws say otherwise" in check_certificate(
        seal({**certificate, "levels": levels})
    )


def test_a_certificate_from_before_devices_were_told_apart_is_read():
    backends = load("gpu")
    selection = make_selection(laws=("L2/logits", "L4/repeat"), cases=CASES)
    certificate = issue_certificate(backends, selection, judge(backends, selection))
    for level in certificate["levels"]:
        level["passed"] = True
        for law in level["laws"]:
            del law["on"]
    old = seal(certificate)
    assert check_certificate(old) == []
    # Its claim of a level that was declined whole is not repeated.
    assert describe_passes(old) == "passed L2 on gpu"

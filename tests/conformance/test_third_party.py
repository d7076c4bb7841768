"""What the suite says of a backend that is not ours, at two of its stages."""

import importlib.util
from pathlib import Path

from hermes_conformance.certificate.issue import issue_certificate
from hermes_conformance.measure.subject import Backends, BackendUnderTest
from hermes_conformance.suite.runner import DECLINED, PASSED, judge
from hermes_conformance.suite.selection import Selection

SKELETON = Path(__file__).resolve().parents[2] / "examples" / "backend" / "hermes_mine"
SMALL = Selection(cases=("default/*", "attention.mask=window/*"))


def load_skeleton():
    spec = importlib.util.spec_from_file_location("hermes_mine", SKELETON / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.BACKEND


def test_a_backend_that_declines_everything_neither_fails_nor_passes(backends):
    oracle = backends("torch").oracle
    found = Backends(BackendUnderTest(load_skeleton()), oracle, oracle)
    outcomes = list(judge(found, SMALL))
    passed = {outcome.law.id for outcome in outcomes if outcome.status == PASSED}
    # Laws of the core library need no backend.
    assert passed <= {"L0/language", "L0/pins", "L0/order", "L0/shares", "L0/tokens"}
    rest = [outcome for outcome in outcomes if outcome.law.id not in passed]
    assert rest
    assert {outcome.status for outcome in rest} == {DECLINED}
    messages = {outcome.message for outcome in rest}
    assert "hermes_mine has no forward pass yet" in messages
    assert "hermes_mine does not build windows yet (layers.0)" in messages
    assert not issue_certificate(found, SMALL, outcomes)["passed"]


def test_a_backend_without_learners_is_judged_by_its_forward_pass(backends):
    """The oracle, judged as a third party's backend would be: float64, no gradients."""
    mlx = backends("mlx")
    found = Backends(BackendUnderTest(mlx.oracle.backend), mlx.subject, mlx.oracle)
    selection = Selection(levels=("L1",), cases=SMALL.cases)
    outcomes = list(judge(found, selection))
    assert {outcome.status for outcome in outcomes} == {PASSED}
    laws = {outcome.law.name for outcome in outcomes}
    assert {"logits", "float32", "loss", "decoding", "packing"} <= laws
    assert not laws & {"gradients", "derivatives", "micro-batches"}
    certificate = issue_certificate(found, selection, outcomes)
    assert certificate["passed"]
    assert not certificate["whole"]

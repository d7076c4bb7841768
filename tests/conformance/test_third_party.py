"""What the suite says of a backend that is not ours, at two of its stages."""

import importlib.util
from pathlib import Path

from hermes_conformance.certificate import certificate
from hermes_conformance.law import Sides
from hermes_conformance.runner import DECLINED, PASSED, Selection, judge
from hermes_conformance.side import Side

SKELETON = Path(__file__).resolve().parents[2] / "examples" / "backend" / "hermes_mine"
SMALL = Selection(cases=("default/*", "attention.mask=window/*"))


def skeleton():
    spec = importlib.util.spec_from_file_location("hermes_mine", SKELETON / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.BACKEND


def test_a_backend_that_declines_everything_neither_fails_nor_passes(sides):
    oracle = sides("torch").oracle
    found = Sides(Side(skeleton()), oracle, oracle)
    outcomes = list(judge(found, SMALL))
    own = {outcome.law.id for outcome in outcomes if outcome.status == PASSED}
    # What stands above every backend does not ask one.
    assert own <= {"L0/language", "L0/pins", "L0/order", "L0/shares", "L0/tokens"}
    rest = [outcome for outcome in outcomes if outcome.law.id not in own]
    assert rest
    assert {outcome.status for outcome in rest} == {DECLINED}
    messages = {outcome.message for outcome in rest}
    assert "hermes_mine has no forward pass yet" in messages
    assert "hermes_mine does not build windows yet (layers.0)" in messages
    assert not certificate(found, SMALL, outcomes)["passed"]


def test_a_backend_that_only_looks_forward_is_judged_by_what_it_has(sides):
    """The oracle, judged as a stranger would be: float64, no derivatives."""
    found = Sides(Side(sides("torch").oracle.backend), sides("mlx").subject, sides("mlx").oracle)
    selection = Selection(levels=("L1",), cases=SMALL.cases)
    outcomes = list(judge(found, selection))
    assert {outcome.status for outcome in outcomes} == {PASSED}
    laws = {outcome.law.name for outcome in outcomes}
    assert {"logits", "float32", "loss", "decoding", "packing"} <= laws
    assert not laws & {"gradients", "derivatives", "micro-batches"}
    made = certificate(found, selection, outcomes)
    assert made["passed"]
    assert not made["whole"]

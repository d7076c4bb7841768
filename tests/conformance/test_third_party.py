"""What the suite says of a backend that is not ours, at two of its stages."""

import importlib.util
from contextlib import ExitStack
from pathlib import Path

from hermes.errors import Unsupported
from hermes_conformance.certificate.issue import certificate
from hermes_conformance.faults.fault import Inside
from hermes_conformance.faults.self_test import FAULTS
from hermes_conformance.laws.canary import canaries, refusal
from hermes_conformance.measure.law import Sides
from hermes_conformance.measure.subject import BackendUnderTest
from hermes_conformance.suite.runner import DECLINED, PASSED, Selection, judge

SKELETON = Path(__file__).resolve().parents[2] / "examples" / "backend" / "hermes_mine"
SMALL = Selection(cases=("default/*", "attention.mask=window/*"))


def skeleton():
    spec = importlib.util.spec_from_file_location("hermes_mine", SKELETON / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.BACKEND


def test_a_backend_that_declines_everything_neither_fails_nor_passes(sides):
    oracle = sides("torch").oracle
    found = Sides(BackendUnderTest(skeleton()), oracle, oracle)
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


class Picky:
    """A backend that declines gelu, and whose silu is float32 inside."""

    def __init__(self, backend):
        self.backend, self.name = backend, "picky"

    def build(self, spec, params, options):
        if spec.layers[0].ffn.function == "gelu":
            raise Unsupported("hermes_picky has no gelu")
        return self.backend.build(spec, params, options)


def test_a_canary_that_is_declined_leaves_the_others_singing(sides):
    found = sides("torch")
    picky = BackendUnderTest(Picky(found.subject.backend), "cpu")
    assert refusal(picky) is None
    assert len(canaries(picky)) == len(canaries(found.subject)) - 1
    with ExitStack() as stack:
        fault = next(f for f in FAULTS if f.name == "float32 inside float64's silu")
        fault.plant(Inside("torch", stack))
        assert refusal(picky).startswith("the float64 of picky is not one: exp in silu is off by")


def test_a_backend_that_only_looks_forward_is_judged_by_what_it_has(sides):
    """The oracle, judged as a stranger would be: float64, no derivatives."""
    found = Sides(
        BackendUnderTest(sides("torch").oracle.backend), sides("mlx").subject, sides("mlx").oracle
    )
    selection = Selection(levels=("L1",), cases=SMALL.cases)
    outcomes = list(judge(found, selection))
    assert {outcome.status for outcome in outcomes} == {PASSED}
    laws = {outcome.law.name for outcome in outcomes}
    assert {"logits", "float32", "loss", "decoding", "packing"} <= laws
    assert not laws & {"gradients", "derivatives", "micro-batches"}
    made = certificate(found, selection, outcomes)
    assert made["passed"]
    assert not made["whole"]

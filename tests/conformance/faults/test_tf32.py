"""The laws of tf32 on a CPU, which has none: on torch with its products rounded."""

from contextlib import ExitStack

import pytest

from hermes_conformance.certificate.issue import issue_certificate
from hermes_conformance.faults import tf32
from hermes_conformance.faults.patcher import Patcher
from hermes_conformance.laws import short_formats
from hermes_conformance.suite.runner import DECLINED, FAILED, PASSED, judge_case
from hermes_conformance.suite.selection import Selection
from tests.conformance.support import LAWS

CASES = {case.name: case for case in short_formats.make_cases()}
EMULATED = pytest.mark.parametrize(
    ("bits", "nearest", "status"),
    [(10, True, PASSED), (10, False, PASSED), (7, True, FAILED)],
    ids=["to nearest", "towards zero", "bfloat16's"],
)


def judge_emulated(backends, law, case, bits, nearest=True, precision="tf32"):
    with ExitStack() as stack:
        patcher = Patcher("torch", stack)
        patcher.replace(patcher.load_module("runtime"), "has_tf32", lambda device: True)
        tf32.round_products(bits, precision, nearest=nearest)(patcher)
        outcome = judge_case(LAWS[law], CASES[case], backends("torch"))
    backends("torch")  # drops what was computed with the emulation
    return outcome


@EMULATED
@pytest.mark.parametrize("case", ["default/fresh", "default/hot", "attention.mask=causal/hot"])
def test_logits_are_judged_by_the_inputs_of_products(backends, case, bits, nearest, status):
    assert judge_emulated(backends, "L3/tf32", case, bits, nearest).status == status


@EMULATED
def test_gradients_are_judged_by_the_inputs_of_products(backends, bits, nearest, status):
    assert (
        judge_emulated(backends, "L3/tf32-gradients", "default/hot", bits, nearest).status == status
    )


@pytest.mark.parametrize("law", ["L2/logits", "L2/gradients"])
def test_float32_with_tf32_inside_is_caught(backends, law):
    assert judge_emulated(backends, law, "default/hot", 10, precision="float32").status == FAILED
    assert judge_emulated(backends, law, "default/hot", 10, precision="tf32").status == PASSED


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_device_without_tf32_declines_it(backends, backend):
    outcome = judge_case(LAWS["L3/tf32"], CASES["default/hot"], backends(backend))
    assert outcome.status == DECLINED
    assert outcome.message.startswith(f"hermes_{backend} computes in tf32 on ")


def test_the_certificate_says_which_precisions_were_judge_emulated(backends):
    chosen = Selection(laws=("L3/tf32", "L2/logits"), cases=("default/hot",))
    found = backends("torch")
    float32 = judge_case(LAWS["L2/logits"], CASES["default/hot"], found)
    made = issue_certificate(
        found, chosen, [float32, judge_emulated(backends, "L3/tf32", "default/hot", 10)]
    )
    assert made["precisions"] == ["float32", "tf32"]
    made = issue_certificate(
        found, chosen, [float32, judge_case(LAWS["L3/tf32"], CASES["default/hot"], found)]
    )
    assert made["precisions"] == ["float32"]

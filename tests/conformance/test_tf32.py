"""TF32 on a CPU, which has none: the laws of it are tried on torch with its products rounded."""

from contextlib import ExitStack

import pytest

from hermes_conformance.certificate.issue import certificate
from hermes_conformance.faults import tf32
from hermes_conformance.faults.fault import Inside
from hermes_conformance.laws import short
from hermes_conformance.suite.runner import DECLINED, FAILED, PASSED, Selection, run
from hermes_conformance.suite.selection import every_law

LAWS = {law.id: law for law in every_law()}
CASES = {case.name: case for case in short.cases()}
EMULATED = pytest.mark.parametrize(
    ("bits", "nearest", "status"),
    [(10, True, PASSED), (10, False, PASSED), (7, True, FAILED)],
    ids=["to nearest", "towards zero", "bfloat16's"],
)


def judged(sides, law, case, bits, nearest=True, precision="tf32"):
    with ExitStack() as stack:
        inside = Inside("torch", stack)
        inside.replace(inside.module("runtime"), "has_tf32", lambda device: True)
        tf32.products_of(bits, precision, nearest=nearest)(inside)
        outcome = run(LAWS[law], CASES[case], sides("torch"))
    sides("torch")  # forgets what it computed
    return outcome


@EMULATED
@pytest.mark.parametrize("case", ["default/fresh", "default/hot", "attention.mask=causal/hot"])
def test_logits_are_judged_by_what_goes_into_products(sides, case, bits, nearest, status):
    assert judged(sides, "L3/tf32", case, bits, nearest).status == status


@EMULATED
def test_gradients_are_judged_alike(sides, bits, nearest, status):
    assert judged(sides, "L3/tf32-gradients", "default/hot", bits, nearest).status == status


@pytest.mark.parametrize("law", ["L2/logits", "L2/gradients"])
def test_float32_with_tf32_inside_is_caught(sides, law):
    assert judged(sides, law, "default/hot", 10, precision="float32").status == FAILED
    assert judged(sides, law, "default/hot", 10, precision="tf32").status == PASSED


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_device_without_tf32_declines_it(sides, backend):
    outcome = run(LAWS["L3/tf32"], CASES["default/hot"], sides(backend))
    assert outcome.status == DECLINED
    assert outcome.message.startswith(f"hermes_{backend} computes in tf32 on ")


def test_the_certificate_says_which_precisions_were_judged(sides):
    chosen = Selection(laws=("L3/tf32", "L2/logits"), cases=("default/hot",))
    found = sides("torch")
    float32 = run(LAWS["L2/logits"], CASES["default/hot"], found)
    made = certificate(found, chosen, [float32, judged(sides, "L3/tf32", "default/hot", 10)])
    assert made["precisions"] == ["float32", "tf32"]
    made = certificate(found, chosen, [float32, run(LAWS["L3/tf32"], CASES["default/hot"], found)])
    assert made["precisions"] == ["float32"]

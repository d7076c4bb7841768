"""The example backend in JAX, where JAX is: what it has earned, and what it declines."""

import importlib
import sys
from pathlib import Path

import pytest

from hermes_conformance.measure.subject import Backends, BackendUnderTest
from hermes_conformance.suite.runner import DECLINED, PASSED, judge
from hermes_conformance.suite.selection import Selection

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "backend_jax"
LINES = 330
# It decodes a batch as one: what engines of many texts need of a backend is declined by name.
ONE_BY_ONE = "jax reads rows of different lengths one by one"
NO_DECODERS = "jax has no decoders of its own for a GPU"


@pytest.fixture(scope="module")
def backend():
    pytest.importorskip("jax")
    sys.path.insert(0, str(EXAMPLE))
    try:
        yield importlib.import_module("hermes_jax").BACKEND
    finally:
        sys.path.remove(str(EXAMPLE))


def judge_example(backends, backend, *cases):
    oracle = backends("torch").oracle
    selection = Selection(levels=("L0", "L1", "L2"), cases=cases)
    return list(judge(Backends(BackendUnderTest(backend), oracle, oracle), selection))


def test_the_example_is_small():
    files = [EXAMPLE / "pyproject.toml", *EXAMPLE.glob("hermes_jax/*.py")]
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) <= LINES


@pytest.mark.long
def test_it_earns_the_forward_laws(backends, backend):
    outcomes = judge_example(backends, backend, "default/*", "golden.bloom/*", "crossed.003/*")
    assert {outcome.status for outcome in outcomes} == {DECLINED, PASSED}
    declined = {outcome.message for outcome in outcomes if outcome.status == DECLINED}
    assert declined == {ONE_BY_ONE, NO_DECODERS}
    laws = {outcome.law.id for outcome in outcomes if outcome.status == PASSED}
    assert {"L0/refusals", "L1/float32", "L1/decoding", "L1/golden", "L2/logits"} <= laws


@pytest.mark.long
def test_it_declines_what_it_does_not_do(backends, backend):
    outcomes = judge_example(backends, backend, "preference.sigmoid/hot", "integer.biases/bfloat16")
    declined = {outcome.message for outcome in outcomes if outcome.status == DECLINED}
    assert declined == {
        "hermes_jax has no losses of preferences",
        "hermes_jax does not compute in bfloat16",
        ONE_BY_ONE,
    }
    assert {outcome.status for outcome in outcomes} == {DECLINED, PASSED}

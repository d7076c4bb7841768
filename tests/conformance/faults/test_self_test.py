"""Planted faults are caught by their laws, and faults of the suite by its controls."""

from contextlib import ExitStack

import pytest

from hermes_conformance.faults import self_test
from hermes_conformance.faults.fault import Fault
from hermes_conformance.faults.patcher import Patcher
from hermes_conformance.suite.runner import FAILED, PASSED, judge_case
from tests.conformance.support import LAWS

# One or two of each part, those that take no training run; all of them are in the long test.
QUICK = (
    "rope's base is 10,001",
    "norm eps is 1e-6 for 1e-5, loud",
    "the final norm alone has another eps",
    "key heads are tiled, in whole numbers",
    "float32 inside float64's silu",
    "masked scores are -1e4, not -inf",
    "the same, by splitting",
    "a residual's gradient is off by 1e-6",
    "layers share their masks, seen",
    "targets are two ahead",
    "log-sum-exp without its maximum",
    "means over tokens for sums",
    "adapters are scaled by alpha alone",
    "weight decay is 0.101",
    "the clipping rule has no 1e-6",
    "norms decay too",
    "a state forgets its step",
    "single steps write the first row's keys",
    "a text begins with a token too many of another",
    "a buffer that comes round forgets a key",
    "prompts in company are read together",
    "kept rows have keys for values",
    "a document's first token belongs to the last",
    "batches of text have no segments",
    "a training step joins its documents",
    "one sample comes twice",
    "the schedule is a step late",
    "MAL forgets an eps",
    "the tokenizer strips its text",
    "files hold float16",
    "products take float16",
)


def run_self_test(backends, faults, suite_faults=()):
    selection = self_test.FaultSelection(tuple(faults), suite_faults)
    return list(self_test.run_self_test(backends, selection))


def list_missed(results):
    return [f"{r.fault}: {r.law} on {r.case}: {r.how}" for r in results if not r.caught]


def test_every_law_has_a_fault_that_it_must_catch():
    without = set(LAWS) - {fault.law for fault in self_test.FAULTS}
    assert not without, without
    assert len(self_test.FAULTS) >= 60
    names = [fault.name for fault in self_test.FAULTS]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(("backend", "half"), [("torch", 0), ("mlx", 1)])
def test_a_fault_of_each_part_is_caught(backends, backend, half):
    """The faults are the same on both, so half of them on each is enough for a short run."""
    names = QUICK[half::2]
    faults = [fault for fault in self_test.FAULTS if fault.name in names]
    assert len(faults) == len(names)
    results = run_self_test(backends(backend), faults, self_test.SUITE_FAULTS)
    assert not list_missed(results), "\n".join(list_missed(results))
    assert len(results) == len(names) + 1 + len(self_test.SUITE_FAULTS)


def test_a_fault_that_changes_nothing_is_reported_as_missed(backends):
    harmless = Fault("nothing", "forward", "L1/logits", "default/hot", lambda patcher: None)
    (result,) = run_self_test(backends("torch"), [harmless])
    assert not result.caught
    assert "every measure within its bound" in result.how


def test_a_fault_that_does_not_fit_its_place_is_not_called_caught(backends):
    """As where a function got one more argument since the fault was written."""

    def plant(patcher):
        patcher.wrap_method("runtime", "Runtime", "load_segments", lambda original: lambda self: 0)

    broken = Fault("of other days", "forward", "L1/logits", "default/hot", plant)
    (result,) = run_self_test(backends("torch"), [broken])
    assert not result.caught
    assert result.how.startswith("the fault does not fit what it is planted in: TypeError")


@pytest.mark.long
@pytest.mark.parametrize(("backend", "against"), [("torch", "numpy"), ("mlx", "numpy")])
def test_every_fault_is_caught(backends, backend, against):
    results = list(self_test.run_self_test(backends(backend, against)))
    assert not list_missed(results), "\n".join(list_missed(results))
    assert len(results) > 150


@pytest.mark.long
def test_every_fault_between_two_learners_is_caught(backends):
    faults = [fault for fault in self_test.FAULTS if fault.part == "peers"]
    results = run_self_test(backends("torch", "mlx"), faults)
    assert not list_missed(results), "\n".join(list_missed(results))


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_fault_of_compiled_learners_is_seen_by_their_law_only(backends, backend, precision):
    """Laws of the same precision that do not compile still pass while the fault is planted."""
    compiled = {"float32": "L4/compiled", "bfloat16": "L4/compiled-bfloat16"}
    fault = next(fault for fault in self_test.FAULTS if fault.law == compiled[precision])
    found, cases = backends(backend), self_test.index_cases()
    with ExitStack() as stack:
        fault.plant(Patcher(backend, stack))
        assert judge_case(LAWS[fault.law], cases["L4", fault.case], found).status == FAILED
        for name in set(compiled.values()) - {fault.law}:
            outcome = judge_case(LAWS[name], cases["L4", "compiled.dropout/hot"], found)
            assert outcome.status == PASSED
        update = LAWS[f"L4/update-{precision}"]
        assert judge_case(update, cases["L4", "train.hot/hot"], found).status == PASSED

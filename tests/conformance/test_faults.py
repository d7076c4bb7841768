"""The suite bites: planted faults are caught, and faults of the suite are noticed."""

from contextlib import ExitStack

import pytest

from hermes_conformance.faults import self_test
from hermes_conformance.faults.fault import Inside
from hermes_conformance.suite.runner import FAILED, PASSED, run

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
    "a document's first token belongs to the last",
    "one sample comes twice",
    "the schedule is an update late",
    "MAL forgets an eps",
    "the tokenizer strips its text",
    "files hold float16",
    "products take float16",
)


def rows(sides, faults, of_suite=()):
    return list(self_test.self_test(sides, self_test.FaultSelection(tuple(faults), of_suite)))


def missed(found):
    return [f"{row.fault}: {row.law} on {row.case}: {row.how}" for row in found if not row.caught]


@pytest.mark.parametrize(("backend", "half"), [("torch", 0), ("mlx", 1)])
def test_a_fault_of_each_part_is_caught(sides, backend, half):
    """The faults are the same on both, so half of them on each is enough for a short run."""
    names = QUICK[half::2]
    chosen = [fault for fault in self_test.FAULTS if fault.name in names]
    assert len(chosen) == len(names)
    found = rows(sides(backend), chosen, self_test.SUITE_FAULTS)
    assert not missed(found), "\n".join(missed(found))
    assert len(found) == len(names) + 1 + len(self_test.SUITE_FAULTS)


def test_a_fault_that_changes_nothing_is_said_to_be_missed(sides):
    harmless = self_test.Fault(
        "nothing", "forward", "L1/logits", "default/hot", lambda inside: None
    )
    (first,) = rows(sides("torch"), [harmless])
    assert not first.caught
    assert "every measure within its bound" in first.how


@pytest.mark.long
@pytest.mark.parametrize(("backend", "against"), [("torch", "numpy"), ("mlx", "numpy")])
def test_every_fault_is_caught(sides, backend, against):
    found = list(self_test.self_test(sides(backend, against)))
    assert not missed(found), "\n".join(missed(found))
    assert len(found) > 150


@pytest.mark.long
def test_every_fault_beside_a_peer_is_caught(sides):
    peers = [fault for fault in self_test.FAULTS if fault.part == "peers"]
    found = rows(sides("torch", "mlx"), peers)
    assert not missed(found), "\n".join(missed(found))


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_fault_of_compiled_learners_alone_is_seen_by_their_law_alone(sides, backend, precision):
    """Of the same precision, what is not compiled still passes while the fault is planted."""
    law = {"float32": "L4/compiled", "bfloat16": "L4/compiled-bfloat16"}
    fault = next(fault for fault in self_test.FAULTS if fault.law == law[precision])
    found, by_law, by_case = sides(backend), self_test.laws(), self_test.cases()
    with ExitStack() as stack:
        fault.plant(Inside(backend, stack))
        assert run(by_law[fault.law], by_case["L4", fault.case], found).status == FAILED
        for name in set(law.values()) - {fault.law}:
            judged = run(by_law[name], by_case["L4", "compiled.dropout/hot"], found)
            assert judged.status == PASSED
        update = by_law[f"L4/update-{precision}"]
        assert run(update, by_case["L4", "train.hot/hot"], found).status == PASSED

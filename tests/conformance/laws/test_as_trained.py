"""L6 judges what trains: which kernels run, how often the host waits, and how far results round."""

import pytest

from hermes.interface import find_backend
from hermes.numerics.chunking import count_chunk_tokens
from hermes_conformance.cases import trained_specs
from hermes_conformance.faults.self_test import FaultSelection, run_self_test, select_faults
from hermes_conformance.laws import LEVELS
from hermes_conformance.measure.rounding_bounds import bound_rounding
from hermes_conformance.measure.subject import Backends, BackendUnderTest
from hermes_conformance.suite.report import format_law, group_by_law
from hermes_conformance.suite.runner import DECLINED, PASSED, is_judged_whole, judge
from hermes_conformance.suite.selection import EVERYTHING, make_selection
from tests.conformance.mac import PlaysMac

(L6,) = (level for level in LEVELS if level.name == "L6")
CASE = "small.15x64 documents/hot"


def judge_laws(backends, *laws):
    selection = make_selection(laws=tuple(f"L6/{law}" for law in laws), cases=(CASE,))
    return list(judge(backends, selection))


@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_both_backends_round_as_counted(backends, name):
    laws = "logits-bfloat16", "gradients-bfloat16", "logits-float32"
    outcomes = judge_laws(backends(name), *laws)
    assert [outcome.status for outcome in outcomes] == [PASSED] * 3
    # A bound that nothing comes near would say nothing.
    assert max(outcome.worst.ratio for outcome in outcomes) > 0.3


@pytest.mark.parametrize(
    ("name", "kernel"),
    [
        ("torch", "aten::_scaled_dot_product_flash_attention_for_cpu"),
        ("mlx", "written out (on CPU"),
    ],
)
def test_the_kernels_of_attention_are_named(backends, name, kernel):
    (outcome,) = judge_laws(backends(name), "kernels-float32")
    assert outcome.status == PASSED, outcome
    assert all(note.startswith("attention in ") and kernel in note for note in outcome.notes)
    (report,) = group_by_law([outcome])
    assert f"{outcome.notes[0]}  ({CASE})" in format_law(report)


def test_a_backend_that_does_not_count_declines_by_name():
    oracle = BackendUnderTest(find_backend("numpy"))
    mac = Backends(BackendUnderTest(PlaysMac(), "gpu"), oracle, oracle)
    (outcome,) = judge_laws(mac, "kernels-float32")
    assert outcome.status == DECLINED
    assert outcome.message == "hermes_mac does not count what it runs; it has no count_work"
    assert is_judged_whole(L6, mac, EVERYTHING)
    assert not is_judged_whole(LEVELS[0], mac, EVERYTHING)


def test_whole_cases_are_those_of_long_runs(backends):
    assert not is_judged_whole(L6, backends("torch"), EVERYTHING)
    names = {case.name for case in trained_specs.make_cases(True)}
    assert {name for name in names if name.startswith("whole.")} == {
        "whole.15x64 causal/hot", "whole.32x128 window/hot", "whole.15x64 documents/hot",
    }  # fmt: skip
    (causal,) = (c for c in trained_specs.make_cases(True) if c.name == "whole.15x64 causal/hot")
    chunk = count_chunk_tokens(causal.spec.vocab_size, 1 << 23)
    assert causal.batch.num_targets > chunk, "the loss takes several slices"


def test_bounds_grow_with_sums_in_float32_alone():
    assert bound_rounding("bfloat16", 10_000).limit == bound_rounding("bfloat16", 0).limit
    assert bound_rounding("float32", 10_000).limit > 100
    backward = bound_rounding("bfloat16", 0, backward=True).limit
    assert backward == pytest.approx(bound_rounding("bfloat16", 0).limit * 3**0.5)


@pytest.mark.long
@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_planted_faults_are_caught(backends, name):
    found = backends(name)
    faults = tuple(fault for fault in select_faults(()).faults if fault.part == "as trained")
    results = list(run_self_test(found, FaultSelection(faults, ())))
    assert {fault.law for fault in faults} == {law.id for law in L6.laws}
    own = [fault for fault in faults if fault.only in (None, name)]
    assert [result.fault for result in results] == [fault.name for fault in own]
    assert [result.fault for result in results if not result.caught] == []

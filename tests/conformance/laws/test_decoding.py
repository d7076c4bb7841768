"""Laws of decoding judge every field of MAL, and what crosses the backends while texts are made."""

import dataclasses
from typing import get_args

import pytest

from hermes import spec as spec_module
from hermes.interface import find_backend
from hermes.numerics.row_layout import find_windows
from hermes_conformance.cases import decoding_specs
from hermes_conformance.laws import LEVELS, interchange, kernel_cases
from hermes_conformance.measure.subject import Backends, BackendUnderTest
from hermes_conformance.suite.report import format_failure
from hermes_conformance.suite.runner import DECLINED, PASSED, judge_case
from tests.conformance.support import LAWS

L2, L5 = kernel_cases.make_cases(), interchange.make_cases()


def find(cases, name):
    return next(case for case in cases if case.name == name)


def collect_parts(spec):
    """Every dataclass inside a spec, and every (field, value) of words."""
    todo, found, words = [spec], set(), set()
    while todo:
        node = todo.pop()
        found.add(type(node))
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            parts = value if isinstance(value, tuple) else (value,)
            todo += [part for part in parts if dataclasses.is_dataclass(part)]
            words |= {(field.name, part) for part in parts if isinstance(part, str)}
    return found, words


def test_steps_meet_every_position_encoding_window_and_norm():
    cases = decoding_specs.make_step_cases()
    judged = [case for case in cases if LAWS["L2/steps"].applies_to(case)]
    found, words = set(), set()
    for case in judged:
        parts, named = collect_parts(case.spec)
        found |= parts
        words |= named
    for union in ("Positions", "Norm"):
        assert set(get_args(getattr(spec_module, union))) <= found, union
    scalings = {cls for cls in vars(spec_module).values()
                if isinstance(cls, type) and cls.__name__.endswith("Scaling")}  # fmt: skip
    assert len(scalings) >= 5
    assert scalings <= found
    assert {("norm_position", place) for place in spec_module.NORM_POSITIONS} <= words
    windows = {one.window_size for case in judged for one in case.spec.attentions}
    assert {None, 1, 3} <= windows
    norms = {one.qk_norm for case in judged for one in case.spec.attentions}
    qk_norms = [norm for norm in norms if isinstance(norm, spec_module.QkNorm)]
    assert {"none", "head", "flat"} <= norms
    assert {norm.norm for norm in qk_norms} == {"rmsnorm", "layernorm"}
    assert "each_head" in {norm.over for norm in qk_norms}


def test_rings_come_round_in_single_steps_and_in_reads_longer_than_a_buffer():
    *rings, half = decoding_specs.make_ring_cases()
    for case in rings:
        windows = [one.window_size for one in case.spec.attentions if one.window_size]
        assert max(case.reads) > 2 * max(windows)
        assert case.reads.count(1) > 2 * min(windows)
    # A buffer for two windows is as long as the text, and then has no need to come round.
    assert find_windows(half.spec, half.T) == (None, 19)
    text = find(L2, "greedy.window/hot")
    assert 8 * max(one.window_size for one in text.spec.attentions) < text.T


@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize(
    ("law", "name"),
    [
        ("L1/decoding", "decoding.ring windows/hot"),
        ("L2/steps", "steps.attention.position_encoding=rope-longrope/fresh"),
        ("L2/texts", "greedy.window/hot"),
        ("L2/prompts", "prompt.long/hot"),
        ("L2/invariant-rows", "decoding.company/hot"),
        ("L3/invariant-rows", "decoding.company/hot"),
        ("L5/kept-rows", "kept.attention.position_encoding=rope-dynamic/hot"),
        ("L5/kept-rows", "kept.decoding.ring windows/hot"),
        ("L5/kept-rows-bfloat16", "kept.default/hot"),
    ],
)
def test_a_law_of_decoding_holds(backends, backend, law, name):
    cases = next(level for level in LEVELS if level.name == law[:2]).make_cases(False)
    outcome = judge_case(LAWS[law], find(cases, name), backends(backend))
    assert outcome.status == PASSED, format_failure(outcome, ["run"])


@pytest.mark.parametrize("name", ["kept.default/hot", "kept.decoding.ring windows/hot"])
def test_a_row_that_one_backend_kept_the_other_goes_on_from(backends, name):
    for law in ("L5/kept-rows", "L5/kept-rows-float32"):
        outcome = judge_case(LAWS[law], find(L5, name), backends("mlx", "torch"))
        assert outcome.status == PASSED, format_failure(outcome, ["run"])


class ReadsAlike:
    """torch, whose models read rows of one length only, as another backend's may."""

    name = "alike"

    def devices(self):
        return ("cpu",)

    def build(self, spec, params, options):
        self.spec, self.model = spec, find_backend("torch").build(spec, params, options)
        return self

    def decoder(self, batch_size, capacity):
        return self.model.decoder(batch_size, capacity)

    def logits(self, tokens, segments=None):
        return self.model.logits(tokens, segments)


@pytest.mark.parametrize(
    ("law", "name", "status", "message"),
    [
        ("L2/texts", "greedy.window/hot", PASSED, ""),
        (
            "L2/invariant-rows",
            "decoding.company/hot",
            DECLINED,
            "alike has no rows that are the same in company",
        ),
    ],
)
def test_a_backend_that_reads_rows_of_one_length_writes_texts(law, name, status, message):
    oracle = BackendUnderTest(find_backend("numpy"))
    alike = Backends(BackendUnderTest(ReadsAlike()), oracle, oracle)
    outcome = judge_case(LAWS[law], find(L2, name), alike)
    assert (outcome.status, outcome.message) == (status, message)

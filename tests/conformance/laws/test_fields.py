"""Every field of MAL means the same on every backend, with fresh weights and with hot ones."""

import pytest

from hermes_conformance.cases.standard import make_edge_cases, make_standard_cases
from hermes_conformance.laws import exact, semantics
from hermes_conformance.suite.report import format_failure
from hermes_conformance.suite.runner import FAILED, judge_case

FIELD_CASES = [case for case in make_standard_cases() if not case.name.startswith("crossed.")]
CROSSED_CASES = [case for case in make_standard_cases() if case.name.startswith("crossed.")]
# The laws that tell what a field means; `hermes conformance run` has the others too.
HOT = {"logits", "float32", "decoding", "packing", "derivatives", "gradients", "dropout"}
FRESH = {"logits", "float32", "derivatives"}


def check_laws(laws, case, backends):
    outcomes = [
        judge_case(law, case, backends)
        for law in laws
        if law.applies_to(case) and law.can_run(backends)
    ]
    assert outcomes, f"no law applies to {case.name}"
    failures = [line for o in outcomes if o.status == FAILED for line in format_failure(o, ["run"])]
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("case", [*FIELD_CASES, *make_edge_cases()], ids=lambda case: case.name)
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_field_means_what_the_oracle_says(backend, case, backends):
    names = FRESH if case.name.endswith("/fresh") else HOT
    laws = [law for law in semantics.LAWS if law.name in names or case in make_edge_cases()]
    check_laws(laws, case, backends(backend))


@pytest.mark.parametrize("case", CROSSED_CASES[::6], ids=lambda case: case.name)
def test_pairs_of_fields_mean_the_same_on_two_backends(case, backends):
    laws = [law for law in semantics.LAWS if law.name in HOT]
    check_laws(laws, case, backends("mlx", "torch"))


@pytest.mark.parametrize("case", exact.make_cases(), ids=lambda case: case.name)
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_what_can_be_exact_is_exact(backend, case, backends):
    laws = [law for law in exact.LAWS if law.applies_to(case)]
    if laws:
        check_laws(laws, case, backends(backend))

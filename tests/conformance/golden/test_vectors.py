"""The golden vectors are intact, and the oracle makes them again."""

from dataclasses import replace

import pytest

from hermes_conformance.golden import hashes, regenerate
from hermes_conformance.golden.vectors import (
    hash_files,
    make_run_cases,
    make_vector_cases,
    read_hashes,
    read_vectors,
)
from hermes_conformance.laws import LEVELS
from hermes_conformance.suite.runner import PASSED, judge_case
from hermes_numpy.backend import BACKEND as ORACLE
from tests.conformance.support import LAWS

LIMIT = 1e-13  # on another processor: sums in another order


def test_every_file_is_the_one_that_was_committed():
    folder = hashes.find_golden_folder()
    assert hash_files(folder) == read_hashes(folder)


def test_weights_and_tokens_are_drawn_as_they_were():
    for case in (*make_vector_cases(), *make_run_cases()):
        stored = read_vectors(case.name).case
        assert stored.spec == case.spec
        assert stored.recipe == case.recipe
        for name, value in case.params.items():
            assert (stored.params[name] == value).all(), name
        assert (stored.batch.tokens == case.batch.tokens).all()
        assert (stored.batch.targets == case.batch.targets).all()


@pytest.mark.parametrize("case", make_vector_cases(), ids=lambda case: case.name)
def test_the_oracle_gives_these_logits_and_losses_again(case):
    stored = read_vectors(case.name)
    model = ORACLE.build(case.spec, case.params)
    assert abs(model.logits(case.tokens, case.segments) - stored.logits).max() < LIMIT
    assert abs(model.loss(case.batch, case.dropout) - stored.loss) < LIMIT


@pytest.mark.long
def test_the_oracle_makes_all_of_it_again(tmp_path):
    regenerate.regenerate(tmp_path)
    apart = regenerate.compare_folders(hashes.find_golden_folder(), tmp_path)
    assert max(apart.values()) < LIMIT, apart
    assert (tmp_path / "pins.json").read_bytes() == (
        hashes.find_golden_folder() / "pins.json"
    ).read_bytes()
    assert (tmp_path / "cases.json").read_bytes() == (
        hashes.find_golden_folder() / "cases.json"
    ).read_bytes()


def test_the_oracle_meets_its_own_vectors(backends):
    """Forward only: it does not train."""
    found = backends("torch")
    oracle = replace(found, subject=found.oracle, reference=found.oracle)
    for case in LEVELS[1].make_cases(False):
        if case.name.startswith("golden."):
            assert judge_case(LAWS["L1/golden"], case, oracle).status == PASSED

"""The committed vectors are whole, and the oracle makes them again."""

import pytest

from hermes_conformance.golden import hashes, regenerate
from hermes_conformance.golden.vectors import read, run_cases, sums, vector_cases, written_sums
from hermes_numpy.backend import BACKEND as ORACLE

LIMIT = 1e-13  # on another processor: sums in another order


def test_every_file_is_the_one_that_was_committed():
    folder = hashes.golden_folder()
    assert sums(folder) == written_sums(folder)


def test_weights_and_tokens_are_drawn_alike_still():
    for case in (*vector_cases(), *run_cases()):
        stored = read(case.name).case
        assert stored.spec == case.spec
        assert stored.recipe == case.recipe
        for name, value in case.params.items():
            assert (stored.params[name] == value).all(), name
        assert (stored.batch.tokens == case.batch.tokens).all()
        assert (stored.batch.targets == case.batch.targets).all()


@pytest.mark.parametrize("case", vector_cases(), ids=lambda case: case.name)
def test_the_oracle_gives_these_logits_and_losses_again(case):
    stored = read(case.name)
    model = ORACLE.build(case.spec, case.params)
    assert abs(model.logits(case.tokens, case.segments) - stored.logits).max() < LIMIT
    assert abs(model.loss(case.batch, case.dropout) - stored.loss) < LIMIT


@pytest.mark.long
def test_the_oracle_makes_all_of_it_again(tmp_path):
    regenerate.regenerate(tmp_path)
    apart = regenerate.compare(hashes.golden_folder(), tmp_path)
    assert max(apart.values()) < LIMIT, apart
    assert (tmp_path / "pins.json").read_bytes() == (
        hashes.golden_folder() / "pins.json"
    ).read_bytes()
    assert (tmp_path / "cases.json").read_bytes() == (
        hashes.golden_folder() / "cases.json"
    ).read_bytes()

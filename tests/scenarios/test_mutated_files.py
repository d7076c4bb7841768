"""Damaged files of every kind are read or refused in one sentence; see mutated_files.py."""

import pytest

from tests.scenarios.mutated_files import judge_all


@pytest.mark.parametrize("count", [10, pytest.param(500, marks=pytest.mark.long)])
def test_a_damaged_file_is_read_or_refused_in_one_sentence(count):
    found = judge_all(count, count)
    assert not found.faults, "\n".join(found.faults[:20])
    kinds = found.read.keys() | found.refused.keys()
    assert len(kinds) >= 20
    total = found.read.total() + found.refused.total()
    assert total / 3 < found.refused.total() < total
    print(f"{total} damaged files of {len(kinds)} kinds: {found.refused.total()} refused")

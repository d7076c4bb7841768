"""Levels, dtypes and backends chosen by name."""

import pytest

from hermes.errors import HermesError
from hermes_conformance.suite.selection import load_backends, make_selection


def test_levels_are_chosen_by_name_or_range():
    assert make_selection(("l1", "L3-L5")).levels == ("L1", "L3", "L4", "L5")
    for words in (("L9",), ("L1-",), ("-L1",), ("1",)):
        with pytest.raises(HermesError, match="is unknown"):
            make_selection(words)


def test_an_unknown_dtype_is_refused():
    with pytest.raises(HermesError, match="dtype 'half' is unknown"):
        make_selection(dtypes=("half",))


def test_a_backend_against_itself_is_refused():
    with pytest.raises(HermesError, match="proves nothing"):
        load_backends("numpy", "numpy")

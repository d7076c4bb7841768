"""Numbers with units, counts with nouns, tables in columns."""

import pytest

from hermes.formatting import format_columns, format_count, format_with_unit


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.00 kB"),
        (9994, "9.99 kB"),
        (9996, "10.0 kB"),
        (99_960, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.00 MB"),
        (28_966_928_384, "29.0 GB"),
    ],
)
def test_a_count_with_its_unit(count, text):
    assert format_with_unit(count, "B") == text


def test_one_of_a_thing_is_not_several():
    assert [format_count(n, "rows") for n in (0, 1, 1200)] == ["0 rows", "1 row", "1,200 rows"]
    kept = ("pairs are kept", "pair is kept")
    assert [format_count(n, *kept) for n in (1, 2)] == ["1 pair is kept", "2 pairs are kept"]


def test_columns_are_as_wide_as_their_widest_cell():
    assert format_columns([("a", "1"), ("bbb", "22", "c")], right=(1,)) == ["a     1", "bbb  22  c"]

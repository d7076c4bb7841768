"""Covering arrays."""

from itertools import combinations

from hermes_conformance.cases.covering_array import make_covering_array


def is_allowed(row):
    return not (row.get("a") == "1" and row.get("b") == "1")


def test_every_allowed_pair_occurs_in_few_rows():
    factors = {name: ("0", "1", "2") for name in "abcd"}
    rows = make_covering_array(factors, is_allowed)
    assert len(rows) <= 12  # 9 is the least for four factors of three values
    for (a, xs), (b, ys) in combinations(factors.items(), 2):
        for x in xs:
            for y in ys:
                occurs = any(row[a] == x and row[b] == y for row in rows)
                assert occurs != ((a, b, x, y) == ("a", "b", "1", "1"))


def test_the_rows_are_the_same_each_time():
    factors = {name: ("0", "1", "2") for name in "abcd"}
    assert make_covering_array(factors, is_allowed) == make_covering_array(factors, is_allowed)

"""The architectures vary every field of MAL, and every two fields together."""

import dataclasses
import re
from itertools import combinations

import pytest

from hermes import spec as spec_module
from hermes_conformance.cases import attention_specs
from hermes_conformance.cases.covering_array import make_covering_array
from hermes_conformance.cases.crossed_specs import FACTORS, is_allowed, make_crossed_specs
from hermes_conformance.cases.specs import make_field_specs
from hermes_conformance.cases.standard import make_edge_cases, make_standard_cases


def collect_values(spec):
    """((class, field), value) of every dataclass inside a spec."""
    todo, values = [spec], []
    while todo:
        node = todo.pop()
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            values.append(((type(node).__name__, field.name), repr(value)))
            parts = value if isinstance(value, tuple) else (value,)
            todo += [part for part in parts if dataclasses.is_dataclass(part)]
    return values


WORDS = {"name", "description"}  # decide no number
ELSEWHERE = {
    ("ModelSpec", "max_seq_len"),  # a length, which the edge cases and the decoder's vary
    ("ModelSpec", "hidden_size"),
}


def test_every_field_of_every_spec_takes_several_values():
    seen = {}
    for spec in [case.spec for case in (*make_standard_cases(), *make_edge_cases())]:
        for key, value in collect_values(spec):
            seen.setdefault(key, set()).add(value)
    classes = [
        value
        for value in vars(spec_module).values()
        if dataclasses.is_dataclass(value) and value.__module__ == "hermes.spec"
    ]
    for cls in classes:
        for field in dataclasses.fields(cls):
            key = (cls.__name__, field.name)
            assert key in seen, f"no case has a {cls.__name__}"
            scaling = cls.__name__.endswith("Scaling")
            if field.name not in WORDS and key not in ELSEWHERE and not scaling:
                assert len(seen[key]) > 1, f"every case has the same {cls.__name__}.{field.name}"


@pytest.mark.parametrize(
    ("factors", "allowed", "prefix"),
    [
        (FACTORS, is_allowed, "crossed."),
        (attention_specs.FACTORS, lambda row: True, "crossed.attention "),
    ],
    ids=["fields", "attention"],
)
def test_every_two_values_of_any_two_factors_occur_together(factors, allowed, prefix):
    rows = make_covering_array(factors, allowed)
    names = [name for name in make_crossed_specs() if re.fullmatch(rf"{prefix}\d+", name)]
    assert len(rows) == len(names)
    for (a, xs), (b, ys) in combinations(factors.items(), 2):
        for x in xs:
            for y in ys:
                occurs = any(row[a] == x and row[b] == y for row in rows)
                assert occurs or not allowed({a: x, b: y}), f"{a}={x} never meets {b}={y}"


def test_the_fields_are_named_by_their_path_in_a_file():
    tops = {name.partition(".")[0] for name in make_field_specs()}
    parts = {"attention", "ffn", "block", "model", "embeddings", "output"}
    assert tops <= {"default", "every dropout", *parts}

"""Every field of MAL means the same on every backend, with fresh weights and with hot ones."""

import dataclasses

import pytest

from hermes import spec as spec_module
from hermes_conformance.cases.specs import FACTORS, crossed, fields
from hermes_conformance.laws import exact, semantics
from hermes_conformance.laws.cases import edges, standard
from hermes_conformance.suite.report import failure_lines
from hermes_conformance.suite.runner import FAILED, run

FIELD_CASES = [case for case in standard() if not case.name.startswith("crossed.")]
CROSSED_CASES = [case for case in standard() if case.name.startswith("crossed.")]


# What tells a field's meaning; `hermes conformance run` has the other laws too.
TELLING = {"logits", "float32", "decoding", "packing", "derivatives", "gradients", "dropout"}
FEWER = {"logits", "float32", "derivatives"}


def check(laws, case, sides):
    outcomes = [run(law, case, sides) for law in laws if law.applies(case) and law.possible(sides)]
    assert outcomes, f"no law applies to {case.name}"
    failed = [line for o in outcomes if o.status == FAILED for line in failure_lines(o, ["run"])]
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("case", [*FIELD_CASES, *edges()], ids=lambda case: case.name)
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_field_means_what_the_oracle_says(backend, case, sides):
    telling = FEWER if case.name.endswith("/fresh") else TELLING
    laws = [law for law in semantics.LAWS if law.name in telling or case in edges()]
    check(laws, case, sides(backend))


@pytest.mark.parametrize("case", CROSSED_CASES[::6], ids=lambda case: case.name)
def test_fields_cross_without_surprise(case, sides):
    check([law for law in semantics.LAWS if law.name in TELLING], case, sides("mlx", "torch"))


@pytest.mark.parametrize("case", exact.cases(), ids=lambda case: case.name)
@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_what_can_be_exact_is(backend, case, sides):
    laws = [law for law in exact.LAWS if law.applies(case)]
    if laws:
        check(laws, case, sides(backend))


def values_of(spec):
    """(class, field) -> value, for every dataclass inside a spec."""
    todo, found = [spec], []
    while todo:
        node = todo.pop()
        for field in dataclasses.fields(node):
            value = getattr(node, field.name)
            found.append(((type(node).__name__, field.name), repr(value)))
            parts = value if isinstance(value, tuple) else (value,)
            todo += [part for part in parts if dataclasses.is_dataclass(part)]
    return found


WORDS = {"name", "description"}  # say what a thing is called and decide no number
ELSEWHERE = {
    ("ModelSpec", "max_seq_len"),  # a length, crossed by the edge cases and the decoder's
    ("ModelSpec", "hidden_size"),
}


def test_every_field_of_every_spec_takes_several_values():
    seen = {}
    for spec in [case.spec for case in (*standard(), *edges())]:
        for key, value in values_of(spec):
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


def test_every_two_values_of_any_two_factors_meet():
    from itertools import combinations

    from hermes_conformance.cases.covering_array import cover
    from hermes_conformance.cases.specs import _allowed

    rows = cover(FACTORS, _allowed)
    assert len(rows) == len(crossed())
    for (a, xs), (b, ys) in combinations(FACTORS.items(), 2):
        for x in xs:
            for y in ys:
                meets = any(row[a] == x and row[b] == y for row in rows)
                assert meets or not _allowed({a: x, b: y}), f"{a}={x} never meets {b}={y}"


def test_the_fields_are_named_by_their_path_in_a_file():
    tops = {name.partition(".")[0] for name in fields()}
    parts = {"attention", "ffn", "block", "model", "embeddings", "output"}
    assert tops <= {"default", "every dropout", *parts}

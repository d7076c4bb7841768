"""Which one-token changes a source text has, and what stays of them when lines move."""

import ast

import pytest

from hermes.errors import HermesError, MissingBackend
from hermes_conformance.mutants.backend_package import draw_mutants, find_package
from hermes_conformance.mutants.equivalents import KEYS, find_equivalents, read_equivalents
from hermes_conformance.mutants.mutations import list_mutants

SOURCE = '''"""A docstring with 1 + 1."""

SIZE: int | None = 3


def scale(x: "Array | None", y=2.5, *, keep=True):
    """Numbers here, 7, are no code."""
    if x is None and y > 0:
        raise ValueError(f"{y + 1} is wrong")
    total = (
        x * y
        - 1e-6
    )
    total += -x if keep else x[0]
    assert total < 5
    return [v for v in total if not v]
'''


def find_texts(source=SOURCE):
    return {(mutant.before, mutant.after) for mutant in list_mutants("a.py", source)}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("SIZE: int | None = 3", "SIZE: int | None = 4"),
        ("if x is None and y > 0:", "if x is not None and y > 0:"),
        ("if x is None and y > 0:", "if x is None or y > 0:"),
        ("if x is None and y > 0:", "if x is None and y >= 0:"),
        ("if x is None and y > 0:", "if x is None and y > 1:"),
        ("if x is None and y > 0:", "if (not (x is None and y > 0)):"),
        ("x * y", "x / y"),
        ("- 1e-6", "+ 1e-6"),
        ("- 1e-6", "- 2e-06"),
        ("total += -x if keep else x[0]", "total -= -x if keep else x[0]"),
        ("total += -x if keep else x[0]", "total += x if keep else x[0]"),
        ("total += -x if keep else x[0]", "total += -x if (not (keep)) else x[0]"),
        ("total += -x if keep else x[0]", "total += -x if keep else x[1]"),
        ("return [v for v in total if not v]", "return [v for v in total if v]"),
    ],
)
def test_each_kind_of_change_is_found(before, after):
    assert (before, after) in find_texts()


def test_comments_annotations_messages_and_assertions_are_left_alone():
    befores = {before for before, _ in find_texts()}
    assert not any("raise" in text or "assert" in text or "no code" in text for text in befores)
    assert all("&" not in after for _, after in find_texts())


def test_a_change_is_one_place_and_still_parses():
    for mutant in list_mutants("a.py", SOURCE):
        changed = mutant.change(SOURCE)
        assert changed != SOURCE
        ast.parse(changed)
        line = SOURCE.splitlines()[mutant.line - 1]
        assert changed.splitlines()[: mutant.line - 1] == SOURCE.splitlines()[: mutant.line - 1]
        assert line.strip() in mutant.before or mutant.before in " ".join(line.split())


def test_the_statement_that_runs_a_change_is_known():
    mutants = {(m.before, m.after): m for m in list_mutants("a.py", SOURCE)}
    assert mutants["x * y", "x / y"].statement == (10, 13)
    assert mutants["if x is None and y > 0:", "if x is None or y > 0:"].statement == (8, 8)
    assert mutants["SIZE: int | None = 3", "SIZE: int | None = 4"].statement == (0, 0)
    default = 'def scale(x: "Array | None", y=2.5, *, keep=True):'
    assert mutants[default, default.replace("2.5", "5.0")].statement == (0, 0)


def test_keys_do_not_change_when_lines_move():
    moved = SOURCE.replace("SIZE", "OTHER = 'text'\n\n\nSIZE")
    assert {m.key for m in list_mutants("a.py", SOURCE)} <= {
        m.key for m in list_mutants("a.py", moved)
    }


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_draw_follows_from_its_seed_and_begins_as_a_shorter_one(backend):
    package = find_package(backend)
    assert package.name == f"hermes_{backend}"
    long, short = draw_mutants(package, 40, 3), draw_mutants(package, 10, 3)
    assert long[:10] == short
    assert len({mutant.key for mutant in long}) == 40
    assert draw_mutants(package, 10, 4) != short
    assert not any("process_group" in mutant.file for mutant in long)
    with pytest.raises(HermesError, match="one-token changes; --random 99999 is more"):
        draw_mutants(package, 99_999, 0)


def test_an_unknown_backend_is_named():
    with pytest.raises(MissingBackend, match="'abacus' is unknown"):
        find_package("abacus")


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_every_entry_of_the_equivalents_is_a_change_of_today(backend):
    package = find_package(backend)
    every = [m for file, text in package.files.items() for m in list_mutants(file, text)]
    entries = find_equivalents(package)
    assert entries
    for entry in entries:
        assert any(entry.is_about(package.name, mutant) for mutant in every), entry
        assert len(entry.why) > 10
    assert len(set(entries)) == len(entries)


def test_a_damaged_file_of_equivalents_is_named(tmp_path):
    path = tmp_path / "equivalents.toml"
    path.write_text('[[equivalent]]\npackage = "hermes_torch"\n')
    with pytest.raises(HermesError, match="entry 1 needs exactly package, file"):
        read_equivalents(path)
    path.write_text("[[other]]\n")
    with pytest.raises(HermesError, match=r"expected \[\[equivalent\]\] entries only"):
        read_equivalents(path)


def test_an_entry_says_on_which_kind_of_device_it_holds(tmp_path):
    path = tmp_path / "equivalents.toml"
    entry = "[[equivalent]]\n" + "".join(f'{key} = "{key}"\n' for key in KEYS)
    path.write_text(f'{entry}{entry}device = "cuda"\n')
    everywhere, on_cuda = read_equivalents(path)
    assert [everywhere.is_true_on(device) for device in ("cpu", "cuda:1")] == [True, True]
    assert [on_cuda.is_true_on(device) for device in ("cpu", "cuda", "cuda:1")] == [
        False,
        True,
        True,
    ]
    for wrong in ("1", '""', '"cuda:0"'):
        path.write_text(f"{entry}device = {wrong}\n")
        with pytest.raises(HermesError, match="entry 1: device must be a kind, as cpu or cuda"):
            read_equivalents(path)

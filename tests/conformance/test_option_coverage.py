"""specs/coverage.md has every option and field of a recipe, with cases and faults that exist."""

import dataclasses
import re
from functools import cache
from pathlib import Path

import pytest

from hermes.options import get_options
from hermes.options.training_commands import TRAINING_COMMANDS
from hermes.recipe import Lora, Recipe
from hermes_conformance.faults.self_test import FAULTS, index_cases

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (*TRAINING_COMMANDS, "generate", "chat", "serve", "eval")
# Settings of optimizers, loss scaling and architectures, each of which has a field or a key.
BY_FIELD = {"set"}


def read_page():
    """The page's three sections, each as the cells of its rows, or the last as its text."""
    text = (ROOT / "specs" / "coverage.md").read_text(encoding="utf-8")
    _, computed, once, rest = re.split(r"^## .*$", text, flags=re.M)
    tables = []
    for section in (computed, once):
        lines = [line for line in section.splitlines() if line.startswith("| `--")]
        tables.append([[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines])
    return *tables, rest


COMPUTED, ONCE, REST = read_page()


def names_in(cell):
    return [name.removeprefix("--").replace("-", "_") for name in re.findall(r"`([^`]+)`", cell)]


def list_fields(value, prefix=""):
    """The values of a recipe's fields by their names, those inside of other fields too."""
    found = {}
    for field in dataclasses.fields(value):
        inner = getattr(value, field.name)
        if dataclasses.is_dataclass(inner):
            found |= list_fields(inner, f"{prefix}{field.name}.")
        else:
            found[f"{prefix}{field.name}"] = inner
    return found


@cache
def find_cases():
    return {name: case for (_, name), case in index_cases().items()}


def test_every_option_stands_on_the_page_once():
    listed = [name for row in (*COMPUTED, *ONCE) for name in names_in(row[0])]
    listed += [name for line in REST.split("Field of")[:1] for name in names_in(line)]
    there = {name for command in COMMANDS for name in get_options(command)}
    assert sorted(set(listed) - BY_FIELD) == sorted(there - BY_FIELD)
    assert not [name for name in listed if listed.count(name) > 1 and name not in BY_FIELD]


def test_every_field_of_a_recipe_stands_on_the_page_once():
    listed = [name for row in (*COMPUTED, *ONCE) for name in names_in(row[1])]
    listed += names_in(REST.partition("Field of")[2])
    assert sorted(listed) == sorted(list_fields(Recipe(lora=Lora())))


@pytest.mark.parametrize("row", COMPUTED, ids=lambda row: row[1] or row[0])
def test_a_row_has_cases_that_use_it_and_faults_that_are_planted(row):
    _, fields, cases, faults = row
    names = cases.split(", ")
    assert names != [""]
    assert faults
    assert not set(names) - set(find_cases())
    assert not set(faults.split("; ")) - {fault.name for fault in FAULTS}
    for field in names_in(fields):
        default = list_fields(Recipe(lora=Lora()))[field]
        found = [list_fields(find_cases()[name].recipe).get(field, default) for name in names]
        assert field == "document_mask" or any(value != default for value in found), field


@pytest.mark.parametrize("row", ONCE, ids=lambda row: row[2])
def test_a_row_of_what_is_computed_once_has_its_tests(row):
    (path,) = re.findall(r"`([^`]+)`", row[3])
    text = (ROOT / path).read_text(encoding="utf-8")
    names = (*names_in(row[0]), *names_in(row[1]))
    assert any(re.search(rf"\b{name}\b", text) for name in names)

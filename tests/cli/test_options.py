"""The table of options: complete, used, and said in phrases that a newcomer understands."""

import re

import click
import pytest

from hermes.data.example_dataset import OVERLONG
from hermes.interface import PRECISIONS, SHARDS
from hermes.options import COMMANDS, GROUPS, OPTIONS, get_options
from hermes.options.option import GROUP_OF_REST
from hermes.recipe import LORA_TARGETS, PREFERENCES, SCHEDULES, Recipe, flatten_recipe
from hermes.tokenizer.bytelevel import PRESETS
from hermes_cli.main import SECTIONS, hermes, run
from hermes_cli.options.config_file import get_click_options
from hermes_cli.options.declarations import TableArgument, TableCommand, TableOption
from tests.cli.test_command_lines import iter_commands

TRAINING = ("train", "finetune", "sft", "dpo")
FOUND = {path.removeprefix("hermes "): command for path, command in iter_commands(hermes)}
ENTRIES = [
    (f"{command} {entry.name}", entry)
    for command, own in COMMANDS.items()
    for entry in (*own.arguments, *get_options(command).values())
]
IDS = [name for name, _ in ENTRIES]
# Words that a reader of help would have to guess at, with the field's word for them.
RIDDLES = {
    r"\bgo(es)? on\b": "resume, continue",
    r"\bupdates?\b": "optimizer step",
    r"\blearnt\b": "trained",
    r"\bplaces?\b": "path, rank",
    r"\balike\b": "the same",
    r"^(Of|As|For|With|The same)\b(?! --)": "say what it is",
}


def test_each_command_takes_its_parameters_from_the_table():
    assert FOUND.keys() == COMMANDS.keys()
    for name, command in FOUND.items():
        assert isinstance(command, TableCommand), name
        entries = [*COMMANDS[name].arguments, *get_options(name).values()]
        assert [one.entry for one in command.params] == entries
        assert all(isinstance(one, TableOption | TableArgument) for one in command.params)


def test_each_option_of_the_table_is_some_commands():
    assert OPTIONS.keys() == {name for own in COMMANDS.values() for name in own.options}
    for command, own in COMMANDS.items():
        assert len(set(own.options)) == len(own.options), command
        assert own.overrides.keys() <= {*own.options}, command


def test_what_a_command_has_otherwise_is_really_otherwise():
    """An override that equals the table is noise, and may hide that the two have parted."""
    for command, own in COMMANDS.items():
        for name, fields in own.overrides.items():
            same = {field for field, value in fields.items()
                    if getattr(OPTIONS[name], field) == value}  # fmt: skip
            assert not same, (command, name)


@pytest.mark.parametrize(("name", "entry"), ENTRIES, ids=IDS)
def test_each_help_is_a_phrase(name, entry):
    assert re.match(r"[A-Z][A-Za-z]+\b", entry.help), "begins with a capital"
    assert not entry.help.endswith((".", ";", ":", " "))
    assert len(entry.help.split()) >= 2
    for riddle, better in RIDDLES.items():
        assert not re.search(riddle, entry.help), f"say {better}"


@pytest.mark.parametrize("command", TRAINING)
def test_each_option_of_a_training_command_has_a_group(command):
    groups = [option.group for option in get_options(command).values()]
    assert COMMANDS[command].grouped
    assert set(groups) <= {*GROUPS} - {GROUP_OF_REST}
    expected = {"Data", "Model", "Optimization", "Schedule", "Checkpoints", "Distributed", "Device"}
    assert expected <= set(groups)


def test_choices_are_those_of_the_library():
    choices = {name: option.choices for name, option in OPTIONS.items() if option.choices}
    assert set(choices["precision"]) == {"auto", *PRECISIONS}
    assert set(choices["shard"]) == set(SHARDS)
    assert set(choices["schedule"]) == set(SCHEDULES)
    assert set(choices["loss"]) == set(PREFERENCES)
    assert set(choices["overlong"]) == set(OVERLONG)
    assert set(choices["preset"]) == set(PRESETS)
    for command in COMMANDS:
        for option in get_options(command).values():
            assert not option.choices or option.default in (None, *option.choices)


def test_defaults_of_the_recipe_are_the_recipes():
    fields = flatten_recipe(Recipe())
    of_recipe = [option for option in OPTIONS.values() if option.scope == "recipe"]
    assert len(of_recipe) >= 20
    for option in of_recipe:
        assert option.recipe_field in fields
        if not option.default_text and not option.multiple:
            assert option.default == fields[option.recipe_field], option.name
    assert OPTIONS["lora_targets"].default == "all"
    assert all(name.endswith("_proj") for name in LORA_TARGETS)


def test_names_are_those_of_files_and_flags():
    for name, command in FOUND.items():
        assert get_click_options(command).keys() == get_options(name).keys()


def test_the_list_of_commands_says_what_each_command_says():
    context = click.Context(hermes)
    for name, _, text in (row for rows in SECTIONS.values() for row in rows):
        command = hermes.get_command(context, name)
        first = command.help.splitlines()[0]
        assert first == f"{text}."
        assert re.match(r"[A-Z][a-z-]+,? ", text)


@pytest.mark.parametrize("columns", [80, 100])
def test_help_fits_the_terminal(capsys, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    groups = ("", "mal", "checkpoint", "conformance")
    widest = 0
    for name in (*groups, *COMMANDS):
        assert run([*name.split(), "--help"]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) < columns
        widest = max(widest, *map(len, lines))
        assert not any(line.rstrip() != line and line.strip() for line in lines)
    assert widest > columns - 10


def test_help_of_training_is_read_at_a_glance(capsys):
    """Headings at the margin, in the order of the groups, each of a handful of options."""
    run(["train", "--help"])
    lines = capsys.readouterr().out.splitlines()
    headings = [line[:-1] for line in lines if re.fullmatch(r"[A-Z][A-Za-z ]+:", line)]
    groups = {option.group for option in get_options("train").values()}
    assert headings == ["Arguments", *(g for g in GROUPS if g in groups), "Other options"]
    counts = [
        sum(option.group == group for option in get_options("train").values()) for group in groups
    ]
    assert max(counts) <= 10

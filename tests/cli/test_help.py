"""Help, versions and usage."""

import os
import subprocess

import pytest

from hermes_cli.main import COMMANDS
from tests.cli.support import HERMES, refuses


def test_every_command_has_help_that_shows_its_defaults(call):
    for name in COMMANDS:
        code, out, _ = call(name, "--help")
        assert code == 0
        assert out.startswith(f"Usage: hermes {name} ")
    _, out, _ = call("train", "--help")
    flat = " ".join(out.split())
    for default in ("[default: 0.0003]", "[default: tiny]", "[default: checkpoints]",
                    "[default: standard input]", "[default: float32]"):  # fmt: skip
        assert default in flat


def test_the_options_of_train_have_the_recipes_defaults(call):
    from hermes.recipe import Recipe, flatten_recipe
    from hermes_cli.commands.train import train
    from hermes_cli.options.config_file import get_click_options
    from hermes_cli.options.resolve import RECIPE_FIELDS

    fields = flatten_recipe(Recipe())
    checked = 0
    for name, option in get_click_options(train).items():
        if (
            name in RECIPE_FIELDS
            and name != "seq_len"
            and isinstance(option.default, int | float | str)
        ):
            assert option.default == fields[RECIPE_FIELDS[name]], name
            checked += 1
    assert checked >= 14


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_answers_at_once(arguments):
    """Well under 0.3 s on a quiet machine; processor time, so that a busy one does not count."""
    spent = []
    for _ in range(3):
        before = os.times().children_user
        subprocess.run([HERMES, *arguments], check=True, capture_output=True)
        spent.append(os.times().children_user - before)
    assert min(spent) < 0.3


def test_an_unknown_command_or_option_is_met_with_the_nearest(call):
    refuses(call, 2, "hermes: no such command 'trian'; did you mean 'train'? (see hermes --help)",
            "trian")  # fmt: skip
    code, _, err = call("train", "--batchsize", 3)
    assert code == 2
    assert err.count("\n") == 1
    assert "no such option '--batchsize'" in err
    assert "--batch-size" in err


@pytest.mark.parametrize("group", [[], ["mal"], ["checkpoint"], ["conformance"]], ids=str)
def test_a_group_without_a_command_shows_its_help(call, group):
    code, _, said = call(*group)
    assert code == 2
    assert said.startswith(f"Usage: {' '.join(['hermes', *group])} [OPTIONS] COMMAND")
    assert said.endswith("\n")


def test_usage_is_one_line_even_where_click_says_it_in_three(call):
    refuses(call, 2, "hermes convert: missing option '--to'; choose from: hermes, hf, mlx-adapter "
            "(see hermes convert --help)", "convert", "a", "b")  # fmt: skip


def test_an_option_of_the_wrong_kind_is_usage(call):
    code, _, err = call("train", "--lr", "fast")
    assert (code, err.count("\n")) == (2, 1)
    assert "'--lr': 'fast' is not a valid float" in err

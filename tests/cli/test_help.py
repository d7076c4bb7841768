"""Help, versions and usage."""

import json
import subprocess
import sys

import pytest

from hermes_cli.main import COMMANDS
from tests.cli.support import refuses


def test_every_command_has_help_that_shows_its_defaults(call):
    for name in COMMANDS:
        code, out, _ = call(name, "--help")
        assert code == 0
        assert out.startswith(f"Usage: hermes {name} ")
    _, out, _ = call("train", "--help")
    flat = " ".join(out.split())
    for default in ("[default: 0.0003]", "[default: tiny]", "[default: checkpoints]",
                    "[default: standard input]", "[default: auto]"):  # fmt: skip
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


# Says how many modules a command line imports, and how many of them are hermes's.
COUNTS = """
import sys
before = set(sys.modules)
from hermes_cli.entry import main
sys.argv[0] = "hermes"
try:
    main()
except SystemExit as end:
    assert not end.code, end.code
loaded = set(sys.modules) - before
own = [name for name in loaded if name.split(".")[0].startswith("hermes")]
print(len(loaded), len(own), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("line", "most", "most_own"),
    [("--help", 165, 45), ("--version", 225, 45), ("info nano", 235, 110)],
)
def test_help_answers_at_once(line, most, most_own):
    """In 0.1 to 0.25 s, which is the imports' time; they are counted, as seconds are the machine's.

    A fourth more than on Python 3.11, as releases differ; that none is heavy is tests/test_house.
    """
    done = subprocess.run(
        [sys.executable, "-c", COUNTS, *line.split()], capture_output=True, text=True, check=True
    )
    loaded, own = map(int, done.stderr.split())
    assert own < loaded < most
    assert 30 < own < most_own


def test_an_unknown_command_or_option_is_met_with_the_nearest(call):
    refuses(call, 2, "hermes: no such command 'trian'; did you mean 'train'? (see hermes --help)",
            "trian")  # fmt: skip
    code, _, err = call("train", "--batchsize", 3)
    assert code == 2
    assert err.count("\n") == 1
    assert "no such option '--batchsize'" in err
    assert "--batch-size" in err


def test_a_lacking_value_names_the_command_whose_help_to_read(call):
    refuses(call, 2, "hermes train: option '--lr-point' requires 2 arguments (see hermes train "
            "--help)", "train", "--lr-point", 3)  # fmt: skip
    refuses(call, 2, "hermes generate: option '--prompt' requires an argument (see hermes generate "
            "--help)", "generate", "--prompt")  # fmt: skip


def test_the_next_option_is_no_value(call):
    """Which then is none itself, so that its value was looked for as a recipe's file."""
    for option, following in (
        ("--shard", "--output"),
        ("-m", "--data"),
        ("--data", "--no-compile"),
    ):
        refuses(call, 2, f"hermes train: option '{option}' requires an argument (see hermes train "
                "--help)", "train", option, following, "r3")  # fmt: skip


def test_what_begins_like_an_option_is_a_value_after_an_equals_sign(call):
    _, _, said = call("generate", "-c", "nothing", "--prompt=--stop", "--stop=--prompt")
    assert "nothing" in said
    assert "requires an argument" not in said


@pytest.mark.parametrize("group", [[], ["mal"], ["checkpoint"], ["conformance"]], ids=str)
def test_a_group_without_a_command_shows_its_help(call, group):
    code, _, said = call(*group)
    assert code == 2
    assert said.startswith(f"Usage: {' '.join(['hermes', *group])} [OPTIONS] COMMAND")
    assert said.endswith("\n")


def test_usage_is_one_line_even_where_click_says_it_in_three(call):
    refuses(call, 2, "hermes convert: missing option '--to'; choose from: hermes, hf, mlx-adapter, "
            "peft-adapter (see hermes convert --help)", "convert", "a", "b")  # fmt: skip


def test_an_option_of_the_wrong_kind_is_usage(call):
    code, _, err = call("train", "--lr", "fast")
    assert (code, err.count("\n")) == (2, 1)
    assert "'--lr': 'fast' is not a valid float" in err


def test_the_bundled_models_are_listed_by_size(call):
    from hermes import mal

    code, out, _ = call("models")
    names = [line.split()[0] for line in out.splitlines()[1:]]
    assert code == 0
    assert sorted(names) == sorted(mal.list_bundled())
    assert out.splitlines()[1].split() == ["nano", "4.19", "M", "2", "64", "256", "32,000"]
    _, out, _ = call("models", "--json")
    facts = json.loads(out)
    assert list(facts) == names
    assert facts["nano"]["parameters"] == 4_194_624


def test_info_takes_its_model_like_the_other_commands(call):
    assert call("info", "nano") == call("info", "--model", "nano")
    refuses(call, 1, "give a model: a bundled name, a .mal file, a checkpoint or a folder", "info")
    refuses(call, 1, "give one model, not two: a bundled name, a .mal file, a checkpoint or a "
            "folder", "info", "nano", "--model", "tiny")  # fmt: skip


def test_short_names_of_types_are_understood(call):
    from hermes.interface import Options

    for short, full in {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.items():
        assert Options(precision=short).precision == full
    _, _, err = call("convert", "nowhere", "there", "--to", "hf", "--dtype", "bf16")
    assert err == "Error: nowhere: no such file or folder; check the name\n"
    code, _, err = call("convert", "nowhere", "there", "--to", "hf", "--dtype", "bf15")
    assert code == 2
    assert "'bf15' is not one of 'float32'" in err


def test_info_names_the_file_that_was_given(call, here):
    message = (
        "tokenizer.json has no 'model_type', so it is no config.json of a model; name the model's "
        "folder, its config.json or a .mal file"
    )
    refuses(call, 1, message, "info", "tokenizer.json")
    config = {"model_type": "llama", "hidden_size": 8, "num_attention_heads": 2}
    (here / "other.json").write_text(json.dumps(config))
    refuses(call, 1, "other.json has no 'num_hidden_layers'", "info", "other.json")

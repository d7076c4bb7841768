"""Every option with its value and what set it; and names of other tools, with hermes's own."""

import pytest
import yaml

from hermes.options import get_options
from hermes.options.synonyms import SYNONYMS, suggest_option
from hermes.recipe import Recipe, flatten_recipe
from hermes_cli.main import run


def print_config(capsys, *arguments):
    assert run(["train", "--print-config", *map(str, arguments)]) == 0
    return capsys.readouterr().out


def find_source(text, name):
    (line,) = [one for one in text.splitlines() if one.strip().startswith(f"{name}:")]
    return line.split(" # ", 1)[1].strip()


def test_each_value_says_what_set_it(capsys, tmp_path):
    file = tmp_path / "my.yaml"
    file.write_text("# mine\nlr: 1e-3\n\nbatch-size: 8\nset: {optimizer.beta2: 0.98}\n")
    text = print_config(capsys, "--config", file, "--max-steps", 3, "--override", "decay_ratio=0.5")
    values = yaml.safe_load(text)
    assert (values["lr"], values["batch_size"], values["max_steps"]) == (1e-3, 8, 3)
    assert values["set"]["optimizer.beta2"] == 0.98
    assert values["decay_ratio"] == 0.5  # where it stands without --set, and there alone
    assert "decay_ratio" not in values["set"]
    assert find_source(text, "decay_ratio") == "set"
    assert find_source(text, "lr") == f"{file}:2"
    assert find_source(text, "batch_size") == f"{file}:4"
    assert find_source(text, "max_steps") == "command line"
    assert find_source(text, "grad_accum") == "default"
    assert find_source(text, "seq_len") == (
        "default: 256, or the model's max_seq_len if that is less; here 256"
    )
    assert find_source(text, "log_every").endswith("; here 1")
    assert find_source(text, "backend") in ("default; here torch", "default; here mlx")


def test_what_is_left_to_hermes_is_what_it_comes_to_here(capsys, tmp_path):
    text = print_config(capsys, "--max-steps", 20_000, "--set", "model.max_seq_len=100")
    assert find_source(text, "seq_len").endswith("; here 100")
    assert find_source(text, "log_every").endswith("; here 10")
    assert yaml.safe_load(text)["seq_len"] is None  # another machine may read it
    text = print_config(capsys, "--seq-len", 64, "--backend", "mlx", "--log-every", 3)
    assert "; here" not in text


def test_it_is_complete_and_read_back_as_it_is(capsys, tmp_path):
    text = print_config(capsys, "--lr", 0.002, "--freeze", "a", "--freeze", "b", "--no-compile")
    values = yaml.safe_load(text)
    assert {*values} - {"set"} == {*get_options("train")} - {"config", "set", "print_config"}
    file = tmp_path / "all.yaml"
    file.write_text(text)
    assert yaml.safe_load(print_config(capsys, "--config", file)) == values


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("--learning-rate", "no such option '--learning-rate'; hermes calls it '--lr' (see"),
        ("--block_size", "no such option '--block_size'; hermes calls it '--seq-len' (see"),
        ("--outptu", "no such option '--outptu'; did you mean '--output'? (see"),
        ("--grad-acum", "no such option '--grad-acum'; did you mean '--grad-accum'? (see"),
        ("--qqq", "no such option '--qqq' (see"),
    ],
)
def test_an_option_of_another_tool_is_known(capsys, typed, found):
    assert run(["train", typed, "3"]) == 2
    assert found in capsys.readouterr().err


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        ("optimizer.learning_rate=3", "hermes calls it 'lr'"),
        ("optimizer.lr=3", "hermes calls it 'lr'"),
        ("beta2=0.9", "hermes calls it 'optimizer.beta2'"),
        ("optimizer.type=muon", "hermes calls it 'optimizer.name'"),
        ("lr_scheduler.type=cosine", "hermes calls it 'schedule'"),
        ("optimizer.beta3=0.9", "did you mean 'optimizer.beta"),
    ],
)
def test_a_setting_of_another_tool_is_known(capsys, edit, found):
    assert run(["train", "--print-config", "--set", edit]) == 1
    assert found in capsys.readouterr().err


def test_a_key_of_another_tools_file_is_known(capsys, tmp_path):
    file = tmp_path / "other.yaml"
    file.write_text("per_device_train_batch_size: 8\n")
    assert run(["train", "--config", str(file)]) == 1
    assert "unknown key 'per_device_train_batch_size'; hermes calls it 'batch_size'" in (
        capsys.readouterr().err
    )


def test_synonyms_are_of_options_that_exist_and_none_means_two_of_one_command():
    commands = ("train", "finetune", "sft", "dpo", "generate", "plan")
    fields = {*flatten_recipe(Recipe())}
    assert {*SYNONYMS} <= fields.union(*map(get_options, commands))
    for command in commands:
        own = {*get_options(command)}
        own -= {"max_len"} if "seq_len" in own else set()  # whose words it has, where both are
        words = [word for name in own & {*SYNONYMS} for word in SYNONYMS[name].split()]
        assert len(words) == len({*words}), command
        assert not {*words} & own, command
    assert suggest_option("max_lr", ["seed"]) == ""
    assert suggest_option("--seq-len", get_options("dpo"), "--") == "; hermes calls it '--max-len'"
    assert suggest_option("max_length", get_options("generate")) == "; hermes calls it 'max_tokens'"

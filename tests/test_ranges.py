"""Numbers out of range, over the whole table: the command names the option, Python the argument."""

import contextlib
import io
import json
import re

import pytest

import hermes
from hermes.arguments import name_arguments
from hermes.errors import HermesError
from hermes.options import COMMANDS, get_options
from hermes_cli import main
from hermes_cli.options.error_names import name_options

FAR = -1_000_000  # below what any option with a range takes
DATA = {"sft": "c.jsonl", "dpo": "p.jsonl"}
TRAINED = "--checkpoint run --data FILE --output o --device cpu --dry-run"
# The command, and what else it is given, so that nothing but the number is wrong.
CALLS = {
    "train": f"--tokenizer tokenizer.json --model nano {TRAINED[17:].replace('FILE', 'text.txt')}",
    "finetune": TRAINED.replace("FILE", "text.txt"),
    "sft": TRAINED.replace("FILE", "c.jsonl"),
    "dpo": TRAINED.replace("FILE", "p.jsonl"),
    "eval": "--checkpoint run --data text.txt --device cpu",
    "generate": "--checkpoint run --prompt a --device cpu",
    "chat": "--checkpoint run --device cpu",
    "prepare": "--data text.txt --tokenizer tokenizer.json --output o",
    "data check": "--data text.txt",
    "plan": "--model nano",
    "recipe": "",
    "serve": "--checkpoint run --device cpu",
    "train-tokenizer": "--input text.txt --output t.json",
}  # fmt: skip
# What gives an option its meaning.
BESIDE = {
    "vocab_size": "--train-tokenizer",
    "lora_alpha": "--lora-rank 2",
    "lora_dropout": "--lora-rank 2",
    "gamma": "--loss simpo",
    "num_fewshot": "--tasks TASK",
    "limit": "--tasks TASK",
    "logprobs": "--json",
    "length_penalty": "--num-beams 2",
}
FUNCTIONS = {"eval": "evaluate", "data check": "check_data"}
# Of the commands that are numbers of processes, and those without a function of one name.
OF_THE_COMMAND = {"num_gpus", "num_processes", "max_restarts"}


def list_numbers():
    """Each number with its first command, that is once where several have it."""
    found = {}
    for command in CALLS:
        for name, option in get_options(command).items():
            if option.type in (int, float):
                found.setdefault(name, command)
    return [(command, name) for name, command in found.items()]


def test_every_command_with_numbers_is_here():
    numbers = {
        command
        for command in COMMANDS
        if any(one.type in (int, float) for one in get_options(command).values())
    }
    known = {name for _, name in list_numbers()}
    for command in numbers - set(CALLS):
        more = {n for n, one in get_options(command).items() if one.type in (int, float)}
        assert more - known <= NOT_HERE.get(command, set()), command


# Which pick one of what is there, and are refused with what there is.
NOT_HERE = {
    "data show": {"document", "step"},
    "data trace": {"step"},
    "conformance self-test": {"random"},
}


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with data, a tokenizer and a run of one step."""
    folder = tmp_path_factory.mktemp("ranges")
    words = " ".join(f"{a}{b} {b}o{a}" for a in "bcdfghklm" for b in "aeiouy")
    (folder / "text.txt").write_text("\n".join(words[k:] + words[:k] for k in range(0, 200, 3)))
    pair = {"prompt": "ab", "completion": "cd"}
    (folder / "c.jsonl").write_text(20 * (json.dumps(pair) + "\n"))
    pair = {"prompt": "ab", "chosen": "cd", "rejected": "ef"}
    (folder / "p.jsonl").write_text(20 * (json.dumps(pair) + "\n"))
    with contextlib.chdir(folder):
        made = "train-tokenizer --input text.txt --output tokenizer.json --vocab-size 300"
        assert call(made.split())[0] == 0
        trained = CALLS["train"].replace("--output o", "--output run").replace("--dry-run", "")
        more = "--max-steps 1 --seq-len 16 --batch-size 1"
        assert call(["train", *f"{trained} {more}".split()])[0] == 0
    return folder


def call(arguments):
    """The command's exit code and what it told."""
    told = []
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        code = main.run([*arguments], told.append)
    return code, "\n".join(told)


@pytest.mark.parametrize(("command", "name"), list_numbers())
def test_a_number_out_of_range_names_the_option(here, monkeypatch, command, name):
    monkeypatch.chdir(here)
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    flag = f"--{name.replace('_', '-')}"
    beside = BESIDE.get(name, "")
    if "TASK" in beside:
        pytest.importorskip("lm_eval")
        beside = beside.replace("TASK", "arc_easy")
    code, told = call([*command.split(), *CALLS[command].split(), *beside.split(), f"{flag}={FAR}"])
    assert code in (1, 2), told
    assert told.count("Error: ") == 1
    assert re.search(rf"{flag}\b", told), told
    assert "_" not in name or not re.search(rf"(?<![\w-]){name}\b", told), told


def list_arguments():
    """The same of functions, which have no options for processes."""
    named = [(FUNCTIONS.get(one, one.replace("-", "_")), one, name) for one, name in list_numbers()]
    return [
        (function, command, name)
        for function, command, name in named
        if name not in OF_THE_COMMAND and callable(getattr(hermes, function, None))
    ]


@pytest.mark.parametrize(("function", "command", "name"), list_arguments())
def test_a_number_out_of_range_names_the_argument(here, monkeypatch, function, command, name):
    monkeypatch.chdir(here)
    if "TASK" in BESIDE.get(name, ""):
        pytest.importorskip("lm_eval")
    words = f"{CALLS[command]} {BESIDE.get(name, '')}".replace("TASK", "arc_easy").split()
    options, given = get_options(command), {}
    while words:
        key = words.pop(0).removeprefix("--").replace("-", "_")
        is_flag = key not in options or options[key].type is bool or options[key].is_flag
        given[key] = True if is_flag else words.pop(0)
    if function == "chat":
        given.pop("prompt", None)
    for whole in {"lora_rank", "num_beams"} & given.keys():
        given[whole] = int(given[whole])
    if "input" in given:
        given["data"] = given.pop("input")
    given.pop("json", None)
    value = FAR if options[name].type is int else float(FAR)
    given[name] = (value,) if options[name].multiple else value
    with pytest.raises(HermesError) as caught:
        getattr(hermes, function)(**given)
    assert re.search(rf"(?<![\w-]){name}", str(caught.value)), caught.value
    assert f"--{name.replace('_', '-')}" not in str(caught.value)


def test_names_are_changed_where_they_are_arguments_and_nowhere_else():
    options = get_options("finetune")
    for message, expected in [
        ("batch_size must be at least 1, got 0", "--batch-size must be at least 1, got 0"),
        ("lora.rank must be at least 1, got 0", "--lora-rank must be at least 1, got 0"),
        ("run.yaml: batch_size must be 1", "run.yaml: batch_size must be 1"),
        ("seed is 1 there", "--seed is 1 there"),
        ("the seed is 1", "the seed is 1"),
        ("--set batch_size: give a number", "--set batch_size: give a number"),
        ("no file 'batch_size'", "no file 'batch_size'"),
        ("give fewer, as grad_accum is 2", "give fewer, as --grad-accum is 2"),
        ("/data/batch_size is no file", "/data/batch_size is no file"),
        ("optimizer.beta2 must be below 1", "optimizer.beta2 must be below 1"),
        ("as in 'lr=0.1,weight_decay=0'", "as in 'lr=0.1,weight_decay=0'"),
    ]:
        assert name_options(message, options) == expected
    values = {"lora_rank": 0, "log_every": 1}
    assert name_arguments("lora.rank must be 1; --log-every too", values) == (
        "lora_rank must be 1; log_every too"
    )
    assert name_arguments("model.layers is no file", values) == "model.layers is no file"

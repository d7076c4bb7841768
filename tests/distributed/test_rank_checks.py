"""Processes of a run that were asked for other things: refused before they compute anything."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hermes.errors import HermesError
from hermes.interface import Options
from hermes.mal import load
from hermes.recipe import Recipe
from hermes.tokenizer import train_tokenizer
from hermes.training.events import Position
from hermes.training.rank_checks import (
    collect_component_values,
    collect_request_values,
    require_same_on_all_ranks,
)
from hermes.training.request import RunComponents, RunRequest
from hermes.training.training_data import TrainingData
from tests.distributed.support import COMMON, Said, ranks, train


def told(values):
    return json.dumps({name: repr(value) for name, value in values.items()})


def test_the_first_value_that_differs_is_named_with_both():
    mine = {"--lr": 0.1, "--freeze": (), "--seed": 0}
    require_same_on_all_ranks(Said(told(mine), told(mine)), mine)
    with pytest.raises(HermesError, match=r"^--seed is 0 in rank 0 and 7 in rank 2; start both$"):
        require_same_on_all_ranks(Said(told(mine), told(mine | {"--seed": 7})), mine, "start both")
    with pytest.raises(
        HermesError, match=r"^--lr is 0\.1 in rank 0 and missing in rank 1; all must"
    ):
        require_same_on_all_ranks(Said(told({"--freeze": (), "--seed": 0})), mine)
    require_same_on_all_ranks(Said(told({"--lr": float("nan")})), {"--lr": float("nan")})


class Backend:
    def __init__(self, number):
        self._number = number

    def versions(self):
        return {"torch": self._number}


def request(number="2.13", **changes):
    return RunRequest(Path("run"), ("a.txt",), Backend(number), load("nano"), **changes)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (request("2.12"), "torch is '2.13' in rank 0 and '2.12' in rank 1"),
        (request(resume=True), "resume is False in rank 0 and True in rank 1"),
        (request(options=Options(precision="bfloat16")),
         "precision is 'float32' in rank 0 and 'bfloat16' in rank 1"),
        (request(options=Options(shard="full")), "shard is None in rank 0 and 'full' in rank 1"),
        (replace(request(), spec=replace(load("nano"), max_seq_len=64)),
         "model.max_seq_len is 1024 in rank 0 and 64 in rank 1"),
    ],
)  # fmt: skip
def test_what_a_run_is_asked_to_be_is_compared(other, sentence):
    sentence = sentence.replace("1024", str(load("nano").max_seq_len))
    with pytest.raises(HermesError, match=f"^{sentence}; all must see the same"):
        require_same_on_all_ranks(
            Said(told(collect_request_values(other))), collect_request_values(request())
        )


def test_the_hermes_and_the_device_of_each_process(monkeypatch):
    mine = collect_request_values(request())
    assert mine == collect_request_values(request(options=Options(device="cuda:1")))
    monkeypatch.setattr("hermes.training.rank_checks.version", lambda name: "0.0.9")
    with pytest.raises(HermesError, match=r"^hermes is '.*' in rank 0 and '0\.0\.9' in rank 1; "):
        require_same_on_all_ranks(Said(told(collect_request_values(request()))), mine)


def parts(**changes):
    class Stream:
        fingerprint = "a" * 64

    values = {
        "spec": load("nano"), "tokenizer": train_tokenizer(["a b"], vocab_size=262),
        "recipe": Recipe(), "position": Position(),
        "training_data": TrainingData(Stream, None, None), "total_steps": 4, "notes": (), **changes,
    }  # fmt: skip
    return RunComponents(**values)


def test_what_a_run_is_made_of_is_compared():
    mine = collect_component_values(parts())
    for other, name in (
        (parts(recipe=replace(Recipe(), batch_size=2)), "batch_size is 32 in rank 0 and 2"),
        (parts(position=Position(7)), "the step to resume from is 0 in rank 0 and 7"),
        (parts(spec=load("tiny")), "the model is 'nano' in rank 0 and 'tiny'"),
        (parts(tokenizer=train_tokenizer(["bab bab bab"], vocab_size=264)), "the tokenizer is '"),
    ):
        with pytest.raises(HermesError, match=f"^{name}"):
            require_same_on_all_ranks(Said(told(collect_component_values(other))), mine)


@pytest.mark.parametrize("backend", ["mlx", pytest.param("torch", marks=pytest.mark.long)])
def test_ranks_that_were_given_other_options_end_at_once_and_one_says_which(
    corpus, tmp_path, backend
):
    one = [*COMMON, "--max-steps", 2, "--output", tmp_path / "run"]
    (code, said), (other_code, other_said) = ranks(
        corpus, backend, one, [*one, "--batch-size", "2"]
    )
    assert (code, other_code) == (1, 1)
    assert said == (
        "Error: --batch-size is 1 in rank 0 and 2 in rank 1; all processes of a run take the same "
        "options and run the same versions\n"
    )
    assert other_said == ""
    assert not (tmp_path / "run").exists()


OTHER = (
    ("--lr", "0.5"),
    ("--shard", "full"),
    ("--precision", "bfloat16"),
    ("--eval-every", "1"),
    ("--train-tokenizer",),
    ("--push-to-hub", "a/b"),
    ("--set", "optimizer.beta2=0.9"),
)


@pytest.mark.long
@pytest.mark.parametrize("backend", ["mlx", "torch"])
@pytest.mark.parametrize("more", OTHER, ids=" ".join)
def test_each_option_that_decides_what_is_done(corpus, tmp_path, backend, more):
    one = [*COMMON, "--max-steps", 2, "--output", tmp_path / "run"]
    first, second = ranks(corpus, backend, one, [*one, *more])
    assert (first[0], second[0]) == (1, 1), (first, second)
    assert first[1].startswith(f"Error: {more[0]} "), first
    assert first[1].count("\n") == 1
    assert second[1] == ""


@pytest.mark.long
@pytest.mark.parametrize("backend", ["mlx", "torch"])
@pytest.mark.parametrize(
    ("command", "record", "more"),
    [
        ("finetune", {"text": "bab bob"}, ("--lora-rank", "2")),
        ("sft", {"prompt": "bab", "completion": "bob"}, ("--no-pack",)),
        ("dpo", {"prompt": "bab", "chosen": "bob", "rejected": "mim"}, ("--beta", "0.5")),
    ],
)
def test_tuning_compares_its_options_too_and_a_run_that_goes_on(
    corpus, tmp_path, backend, command, record, more
):
    train(corpus, "--max-steps", 1, "--output", tmp_path / "base", "--backend", backend)
    data = tmp_path / "data.jsonl"
    data.write_text("\n".join([json.dumps(record)] * 80))
    one = [command, "--checkpoint", tmp_path / "base", "--data", data, "--device", "cpu",
           "--batch-size", 1, "--max-steps", 1, "--output", tmp_path / "run"]  # fmt: skip
    first, second = ranks(corpus, backend, one, [*one, *more])
    assert (first[0], second[0]) == (1, 1), (first, second)
    assert first[1].startswith(f"Error: {more[0].replace('--no-', '--')} "), first
    assert second[1] == ""
    first, second = ranks(corpus, backend, one, one)
    assert (first[0], second[0]) == (0, 0), (first, second)
    on = [command, "--resume", "--device", "cpu", "--output", tmp_path / "run"]
    first, second = ranks(corpus, backend, on, [*on, "--max-steps", "3"])
    assert (first[0], second[0]) == (1, 1), (first, second)
    sentence = 'Error: --max-steps is "the run\'s" in rank 0 and 3 in rank 1; '
    assert first[1].startswith(sentence), first

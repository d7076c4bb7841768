"""The commands that tune: their defaults, and one line for every refusal."""

import pytest

from hermes.numerics.params import list_parameters
from hermes_cli.main import run
from tests.cli.finetuning_support import command, lines


def test_dpo_has_the_readmes_defaults_and_goes_on(place, tmp_path, capsys):
    out = tmp_path / "dpo"
    assert command(place, "dpo", data="prefs.jsonl", output=out) == 0
    kept = (out / "run.yaml").read_text()
    for line in ("beta: 0.1", "lr: 5.0e-07", "epochs: 1", 'loss: "sigmoid"', "max_len: 128"):
        assert line in kept
    assert run(["dpo", "--resume", "--output", str(out), "--max-steps", "3"]) == 0
    assert f"read from {out}/reference.npz" in capsys.readouterr().err
    again = ["dpo", "--config", str(out / "run.yaml"), "--output", str(tmp_path / "again")]
    assert run([*again, "--max-steps", "3"]) == 0
    assert [line["loss"] for line in lines(tmp_path / "again")] == pytest.approx(
        [line["loss"] for line in lines(out)], rel=1e-6
    )


@pytest.mark.parametrize(
    ("name", "data"),
    [("finetune", "text.txt"), ("sft", "chat.jsonl"), ("dpo", "prefs.jsonl")],
)
def test_one_command_begins_tuning_goes_on_and_keeps_the_best(place, tmp_path, capsys, name, data):
    metric = "val_accuracy" if name == "dpo" else "val_loss"
    keep = ["--keep-last", "1", "--keep-best", metric, "--save-every", "1", "--eval-every", "1"]
    length = ["--seq-len", "16"] if name == "finetune" else []
    arguments = ["--auto-resume", *keep, *length, "--val-fraction", "0.3", "--lr", "0.01"]
    for last in ("4", "6", "6"):
        more = [*arguments, "--max-steps", last]
        assert command(place, name, *more, data=data, output=tmp_path) == 0, capsys.readouterr().err
    assert "is finished at step 6" in capsys.readouterr().err
    values = {
        x["step"]: x[metric] for x in lines(tmp_path) if metric in x and x["step"] not in (4, 6)
    }
    better = max if name == "dpo" else min
    best = better(values, key=values.get)
    left = {int(folder.name[5:]) for folder in tmp_path.glob("step-*")}
    assert left == {best, 6}


@pytest.mark.parametrize("name", ["finetune", "train"])
def test_finetune_and_train_begin_from_a_checkpoint(name, place, tmp_path, capsys):
    out = tmp_path / name
    freeze = ["--freeze-layers", "1", "--seq-len", "16"]
    assert command(place, name, *freeze, data="text.txt", output=out) == 0
    said = capsys.readouterr().err
    assert "the head is tied to the embeddings and frozen with them" in said
    assert run([name, "--resume", "--output", str(out), "--max-steps", "3"]) == 0
    assert lines(out)[-1]["step"] == 3


def test_a_run_of_adapters_is_merged(place, tmp_path, capsys):
    from hermes.interop.open_model import open_model

    out, merged = tmp_path / "lora", tmp_path / "merged"
    lora = ["--lora-rank", "2", "--lora-targets", "q_proj,v_proj", "--lr", "0.01"]
    assert command(place, "sft", *lora, data="chat.jsonl", output=out) == 0
    assert (
        "adapters of rank 2, alpha 16, on 4 matrices (q_proj, v_proj): 512 parameters are trained, "
        "no others\n"
    ) in capsys.readouterr().err
    assert run(["merge", "--checkpoint", str(out), "--output", str(merged)]) == 0
    assert "logits differ by 0" in capsys.readouterr().out
    apart = ["--checkpoint", str(place / "base"), "--adapter", str(out)]
    assert run(["merge", *apart, "--output", str(tmp_path / "apart")]) == 0, capsys.readouterr().err
    again = open_model(tmp_path / "apart")
    found, expected = open_model(merged), open_model(out)
    assert all((found.params[name] == again.params[name]).all() for name in found.params)
    assert all(
        (found.params[name] == expected.params[name]).all() for name in list_parameters(found.spec)
    )
    whole = ["merge", "--checkpoint", str(place / "base"), "--output", str(tmp_path / "x")]
    assert run(whole) == 1
    assert capsys.readouterr().err == (
        f"Error: {place}/base has no adapters to merge; give them with --adapter DIR\n"
    )


REFUSED = {
    "no checkpoint": (
        ["sft", "--data", "chat.jsonl"],
        "no model to tune: give --checkpoint C",
    ),
    "another checkpoint": (
        ["sft", "--checkpoint", "nowhere", "--data", "chat.jsonl"],
        "nowhere: no such file or folder; check the name",
    ),
    "another architecture": (
        ["sft", "--checkpoint", "base", "--set", "model.num_layers=1", "--data", "chat.jsonl"],
        "--set model.num_layers: the architecture is the checkpoint's; leave it out",
    ),
    "pairs for conversations": (
        ["sft", "--checkpoint", "base", "--data", "prefs.jsonl"],
        "prefs.jsonl:1: no field 'completion', only 'prompt', 'chosen', 'rejected'; "
        "pairs are for hermes dpo; --skip-bad-records leaves such records out",
    ),
    "a file of text": (
        ["sft", "--checkpoint", "base", "--data", "text.txt"],
        "text.txt: unknown ending '.txt'; records are read from .csv, .json, .jsonl, "
        ".parquet, .tsv, also with .gz, .xz or .zst behind it; rename it, or say by --format which "
        "format it has",
    ),
    "a loss of no one's": (
        ["dpo", "--checkpoint", "base", "--data", "prefs.jsonl", "--loss", "kto"],
        "--loss must be one of sigmoid, ipo, hinge, orpo, simpo, got 'kto'",
    ),
    "longer than the model": (
        ["dpo", "--checkpoint", "base", "--data", "prefs.jsonl", "--max-len", "500"],
        "--max-len is 500, more than the model's max_seq_len 128; choose a shorter --max-len",
    ),
    "a matrix of no one's": (
        ["sft", "--checkpoint", "base", "--data", "chat.jsonl", "--lora-rank", "2",
         "--lora-targets", "query"],
        "--lora-targets must be of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, "
        "got 'query'",
    ),
    "a margin of no use": (
        ["dpo", "--checkpoint", "base", "--data", "prefs.jsonl", "--gamma", "1"],
        "--gamma belongs to loss simpo, not to sigmoid",
    ),
    "a reference of no use": (
        ["dpo", "--checkpoint", "base", "--data", "prefs.jsonl", "--loss", "orpo",
         "--reference-cache", "x.npz"],
        "--reference-cache has no meaning with loss orpo, which has none",
    ),
    "adapters larger than the matrices": (
        ["sft", "--checkpoint", "base", "--data", "chat.jsonl", "--lora-rank", "4000"],
        "--lora-rank is 4000, and no matrix that it adapts has a rank above 32; 8 is usual",
    ),
    "fewer samples than none": (
        ["sft", "--checkpoint", "base", "--data", "chat.jsonl", "--show-samples", "-1"],
        "--show-samples must be at least 0, got -1",
    ),
    "adapters without a rank": (
        ["sft", "--checkpoint", "base", "--data", "chat.jsonl", "--lora-alpha", "2"],
        "--lora-alpha belongs to adapters; give --lora-rank with it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_mistake_is_one_line(name, place, tmp_path, capsys, monkeypatch):
    arguments, message = REFUSED[name]
    monkeypatch.chdir(place)
    assert run([*arguments, "--output", str(tmp_path / "out")]) == 1
    *heading, last = capsys.readouterr().err.splitlines()
    assert last == f"Error: {message}"
    assert all(line.startswith("model small: ") for line in heading)
    assert not (tmp_path / "out").exists()

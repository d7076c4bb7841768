"""The commands that tune: their options, what they say, and one line for every refusal."""

import json
import re

import pytest

from hermes.checkpoint import verify
from hermes.numerics.params import list_parameters
from hermes_cli.main import run
from tests.finetuning.support import (
    TEXT,
    small_checkpoint,
    small_tokenizer,
    some_chats,
    some_pairs,
    write_lines,
)

QUICK = ["--max-steps", "2", "--batch-size", "2", "--backend", "torch", "--device", "cpu"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    small_checkpoint(folder / "base")
    write_lines(folder / "chat.jsonl", some_chats())
    write_lines(folder / "prefs.jsonl", some_pairs())
    (folder / "text.txt").write_text(TEXT * 9)
    return folder


def command(place, name, *more, data, output):
    files = ["--checkpoint", str(place / "base"), "--data", str(place / data)]
    return run([name, *files, "--output", str(output), *QUICK, *more])


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_sft_shows_samples_and_goes_on_from_its_folder_alone(place, tmp_path, capsys):
    out = tmp_path / "sft"
    assert command(place, "sft", "--show-samples", "1", data="chat.jsonl", output=out) == 0
    shown = capsys.readouterr().err
    assert f"{place}/chat.jsonl:1, " in shown
    assert "12 examples in" in shown
    assert run(["sft", "--resume", "--output", str(out), "--max-steps", "3"]) == 0
    assert [line["step"] for line in lines(out)] == [1, 2, 3]
    assert run(["sft", "--resume", "--output", str(out), "--max-steps", "3"]) == 0
    assert "is finished at step 3; nothing is left to do" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "data", "more", "found", "updates"),
    [
        ("sft", "few.jsonl", ["--no-pack"], "4 rows", "1 step of 12 rows"),
        ("dpo", "pairs.jsonl", [], "4 pairs", "1 step of 12 pairs"),
        ("finetune", "short.txt", ["--seq-len", "8"], "4 sequences", "1 step of 12 sequences"),
    ],
)
def test_data_of_less_than_an_update_is_told_before_training(
    place, tmp_path, capsys, name, data, more, found, updates
):
    write_lines(place / "few.jsonl", some_chats(4))
    write_lines(place / "pairs.jsonl", some_pairs(4))
    tokenizer = small_tokenizer()
    ids = tokenizer.encode(TEXT * 3)
    (place / "short.txt").write_text(tokenizer.decode(ids[:34]))
    files = ["--checkpoint", str(place / "base"), "--data", str(place / data), *more]
    quick = ["--batch-size", "32", "--backend", "torch", "--device", "cpu"]
    begin = [name, *files, *quick, "--epochs"]
    assert run([*begin, "3", "--output", str(tmp_path / "three")]) == 0
    said = capsys.readouterr().err
    assert (
        f"the data has {found} and a step takes 12: every step sees each up to 3 times; "
        "choose --batch-size 4 or less\n"
    ) in said
    assert f"run {tmp_path}/three: {updates}\n" in said
    assert run([*begin, "1", "--output", str(tmp_path / "one")]) == 0
    said = capsys.readouterr().err
    assert "sees each" not in said
    assert f"run {tmp_path}/one: 1 step of {found}\n" in said


def test_what_is_held_out_counts_neither_as_trained_nor_as_learnt(place, tmp_path, capsys):
    more = ["--val-fraction", "0.25", "--no-pack"]
    assert command(place, "sft", *more, data="chat.jsonl", output=tmp_path / "sft") == 0
    said = capsys.readouterr().err
    learnt, whole = map(
        int, re.search(r"9 examples in 9 rows; (\d+) of (\d+) tokens", said).groups()
    )
    assert "3 examples are held out, in rows of their own\n" in said
    tokens = int(
        re.search(r"data: (\d+) tokens, 12 rows of 128: 9 to train on, 3 held out", said)[1]
    )
    assert learnt < whole < tokens


@pytest.mark.parametrize(("name", "records"), [("sft", some_chats), ("dpo", some_pairs)])
def test_files_of_records_are_counted_where_they_are_several(
    place, tmp_path, capsys, name, records
):
    folder = place / f"several-{name}"
    folder.mkdir()
    for number in (1, 2):
        write_lines(folder / f"{number}.jsonl", records(4))
    assert command(place, name, data=folder.name, output=tmp_path / "two") == 0
    assert re.search(r"data: [\d,]+ tokens of 2 files, \d+ ", capsys.readouterr().err)
    assert command(place, name, data=f"{folder.name}/1.jsonl", output=tmp_path / "one") == 0
    assert re.search(r"data: [\d,]+ tokens, \d+ ", capsys.readouterr().err)


def test_one_of_anything_is_not_several(place, tmp_path, capsys):
    write_lines(place / "one.jsonl", some_chats(1))
    write_lines(place / "pair.jsonl", some_pairs(1))
    one = ["--max-steps", "1", "--batch-size", "1"]
    assert command(place, "sft", *one, data="one.jsonl", output=tmp_path / "sft") == 0
    assert command(place, "dpo", *one, data="pair.jsonl", output=tmp_path / "dpo") == 0
    shown = capsys.readouterr().err
    go_on = ["--resume", "--output", str(tmp_path / "sft"), "--max-steps", "2", "--batch-size", "2"]
    assert run(["sft", *go_on]) == 1
    assert "a step takes 1 row in " in capsys.readouterr().err
    for line in ("1 example in 1 row; ", "1 row of 128\n", "1 step of 1 row\n",
                 "1 pair of at most ", "1 pair of 128\n", "1 step of 1 pair\n"):  # fmt: skip
        assert line in shown


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


@pytest.mark.long
@pytest.mark.parametrize("backend", ["torch", "mlx"])
@pytest.mark.parametrize(
    ("name", "data", "more"),
    [
        ("finetune", "text.txt", ["--seq-len", "16", "--lora-rank", "2", "--lora-dropout", "0.2"]),
        ("sft", "chat.jsonl", ["--grad-accum", "2"]),
        ("dpo", "prefs.jsonl", ["--grad-accum", "2"]),
    ],
)
def test_tuning_that_was_stopped_twice_is_the_same_to_the_bit(
    place, tmp_path, name, data, more, backend
):
    more = [*more, "--lr", "0.01", "--backend", backend, "--auto-resume"]
    for output, ends in (("whole", [6]), ("parts", [1, 4, 6])):
        for last in ends:
            part = [*more, "--max-steps", str(last)]
            assert command(place, name, *part, data=data, output=tmp_path / output) == 0
    whole, parts = (verify(tmp_path / one / "step-00000006").files for one in ("whole", "parts"))
    tensors = [file for file in whole if file.endswith(".safetensors")]
    assert len(tensors) == 2 + (name == "finetune")
    assert {file: whole[file] for file in tensors} == {file: parts[file] for file in tensors}


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
        "prefs.jsonl:1: no field 'completion', only 'prompt', 'chosen', 'rejected'",
    ),
    "a file of text": (
        ["sft", "--checkpoint", "base", "--data", "text.txt"],
        "text.txt: unknown ending '.txt'; records are read from .csv, .json, .jsonl, "
        ".parquet, .tsv, also with .gz, .xz or .zst behind it; rename it, or say by --format which "
        "format it has",
    ),
    "a loss of no one's": (
        ["dpo", "--checkpoint", "base", "--data", "prefs.jsonl", "--loss", "kto"],
        "loss must be one of sigmoid, ipo, hinge, orpo, simpo, got 'kto'",
    ),
    "longer than the model": (
        ["dpo", "--checkpoint", "base", "--data", "prefs.jsonl", "--max-len", "500"],
        "max_len is 500, more than the model's max_seq_len 128; choose a shorter --max-len",
    ),
    "a matrix of no one's": (
        ["sft", "--checkpoint", "base", "--data", "chat.jsonl", "--lora-rank", "2",
         "--lora-targets", "query"],
        "lora.targets must be of q_proj, k_proj, v_proj, o_proj, gate_proj, up_proj, down_proj, "
        "got 'query'",
    ),
    "a margin of no use": (
        ["dpo", "--checkpoint", "base", "--data", "prefs.jsonl", "--gamma", "1"],
        "gamma belongs to loss simpo, not to sigmoid",
    ),
    "a reference of no use": (
        ["dpo", "--checkpoint", "base", "--data", "prefs.jsonl", "--loss", "orpo",
         "--reference-cache", "x.npz"],
        "--reference-cache has no meaning with loss orpo, which has none",
    ),
    "adapters larger than the matrices": (
        ["sft", "--checkpoint", "base", "--data", "chat.jsonl", "--lora-rank", "4000"],
        "lora.rank is 4000, and no matrix that it adapts has a rank above 32; 8 is usual",
    ),
    "fewer samples than none": (
        ["sft", "--checkpoint", "base", "--data", "chat.jsonl", "--show-samples", "-1"],
        "show_samples must be at least 0, got -1",
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


LORA = ["--lora-rank", "4", "--lora-alpha", "8"]
ANOTHER_RUN = {
    "another rank": (LORA, ["--lora-rank", "8"], "lora.rank is 4 in {step} and 8 here"),
    "another alpha": (LORA, ["--lora-alpha", "4"], "lora.alpha is 8.0 in {step} and 4.0 here"),
    "no adapters": (LORA, ["--lora-rank", "0"], "lora.rank is 4 in {step} and 0 here"),
    "other matrices": (
        [*LORA, "--lora-targets", "q_proj,v_proj"],
        ["--lora-targets", "q_proj"],
        "lora.targets is ('q_proj', 'v_proj') in {step} and ('q_proj',) here",
    ),
    "more dropout": (
        LORA,
        ["--lora-dropout", "0.5"],
        "lora.dropout is 0.0 in {step} and 0.5 here",
    ),
    "adapters": ([], ["--lora-rank", "8"], "lora.rank is 0 in {step} and 8 here"),
    "one a row": ([], ["--no-pack"], "--pack is on in {yaml} and off here"),
    "another start": (
        [],
        ["--checkpoint", "elsewhere"],
        "--checkpoint is {base} in {yaml} and elsewhere here",
    ),
}


@pytest.mark.parametrize("name", ANOTHER_RUN)
def test_what_would_make_it_another_run_is_refused_with_both_values(name, place, tmp_path, capsys):
    begun, now, message = ANOTHER_RUN[name]
    out = tmp_path / "run"
    assert command(place, "sft", *begun, data="chat.jsonl", output=out) == 0
    kept = (out / "run.yaml").read_text()
    capsys.readouterr()
    assert run(["sft", "--resume", "--output", str(out), "--max-steps", "3", *now]) == 1
    found = {"step": out / "step-00000002", "yaml": out / "run.yaml", "base": place / "base"}
    assert capsys.readouterr().err == (
        f"Error: {message.format(**found)}; leave it out to resume the run, or choose another "
        "--output for a new one\n"
    )
    assert (out / "run.yaml").read_text() == kept
    same = ["--resume", *begun, "--max-steps", "3"]
    assert command(place, "sft", *same, data="chat.jsonl", output=out) == 0
    assert lines(out)[-1]["step"] == 3


@pytest.fixture
def moving(tmp_path):
    """A place of its own, whose checkpoint can go away."""
    small_checkpoint(tmp_path / "base")
    small_checkpoint(tmp_path / "other", seed=1)
    write_lines(tmp_path / "chat.jsonl", some_chats())
    write_lines(tmp_path / "prefs.jsonl", some_pairs())
    (tmp_path / "text.txt").write_text(TEXT * 9)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "data", "more"),
    [
        ("finetune", "text.txt", ["--seq-len", "16"]),
        ("sft", "chat.jsonl", ["--lora-rank", "2"]),
        ("dpo", "prefs.jsonl", []),
    ],
)
def test_a_run_goes_on_without_the_checkpoint_that_it_began_from(moving, name, data, more):
    ends = []
    for output in ("whole", "moved"):
        out, last = moving / output, {"whole": "3", "moved": "2"}[output]
        same = [*more, "--lr", "0.01", "--max-steps", last]
        assert command(moving, name, *same, data=data, output=out) == 0
        if output == "moved":
            (moving / "base").rename(moving / "gone")
            assert run([name, "--resume", "--output", str(out), "--max-steps", "3"]) == 0
        ends.append([line["loss"] for line in lines(out)])
    assert ends[0] == ends[1]


def test_another_reference_is_refused_and_the_same_one_found_anew(moving, capsys):
    out = moving / "run"
    assert command(moving, "dpo", data="prefs.jsonl", output=out) == 0
    (out / "reference.npz").rename(moving / "kept.npz")
    (moving / "base").rename(moving / "gone")
    on = ["dpo", "--resume", "--output", str(out), "--max-steps", "3"]
    capsys.readouterr()
    assert run(on) == 1
    assert capsys.readouterr().err == (
        f"Error: run {out} has lost its reference.npz and needs the model that it began from "
        f"({moving}/base: no such file or folder; check the name); say with --checkpoint C where "
        "it is now\n"
    )
    assert run([*on, "--checkpoint", str(moving / "other")]) == 1
    assert f"the reference of run {out} has weights " in capsys.readouterr().err
    (moving / "kept.npz").rename(out / "reference.npz")
    assert run([*on, "--checkpoint", str(moving / "other")]) == 1
    assert f"the reference of run {out} has weights " in capsys.readouterr().err
    (out / "reference.npz").rename(moving / "kept.npz")
    assert run([*on, "--checkpoint", str(moving / "gone")]) == 0
    assert (out / "reference.npz").exists()
    (moving / "gone").rename(moving / "base")
    (moving / "other").rename(moving / "gone")
    (out / "reference.npz").unlink()
    assert run([*on, "--checkpoint", str(moving / "gone")]) == 1
    assert f"the reference of run {out} has weights " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "data", "others"),
    [
        ("finetune", "text.txt", ["train", "sft", "dpo"]),
        ("sft", "chat.jsonl", ["train", "finetune", "dpo"]),
        ("dpo", "prefs.jsonl", ["train", "finetune", "sft"]),
        ("train", "text.txt", ["finetune", "sft", "dpo"]),
    ],
)
def test_a_run_goes_on_by_the_command_that_began_it(place, tmp_path, capsys, name, data, others):
    out = tmp_path / "run"
    length = ["--seq-len", "16"] if data == "text.txt" else []
    assert command(place, name, *length, data=data, output=out) == 0
    for other in others:
        capsys.readouterr()
        assert run([other, "--resume", "--output", str(out)]) == 1
        assert capsys.readouterr().err == (
            f"Error: {out} was started by hermes {name}; resume it with: hermes {name} --resume "
            f"--output {out}\n"
        )


def test_what_records_have_besides_is_said_and_obeyed(place, tmp_path, capsys):
    turns = [
        {"role": "user", "content": "who?"},
        {"role": "assistant", "content": "bad", "weight": 0},
        {"role": "user", "content": "who?", "name": "Ann"},
        {"role": "assistant", "content": "good"},
    ]
    write_lines(place / "fields.jsonl", [{"messages": turns, "id": k} for k in range(4)])
    out, more = tmp_path / "sft", ("--show-samples", "1", "--warmup-steps", "50")
    assert command(place, "sft", *more, data="fields.jsonl", output=out) == 0
    said = capsys.readouterr().err
    assert "[good<|im_end|>]" in said
    assert "[bad" not in said
    assert "fields that are not read: 'id' (4), 'name' of messages (4)" in said
    assert "--warmup-steps 50 is more than the run's 2 steps" in said


def test_arguments_of_a_template_and_tokens_of_messages_are_the_runs(place, tmp_path, capsys):
    """Given once, they hold on resume, and others are refused."""
    template = tmp_path / "chat.jinja"
    template.write_text(
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
        "{{ 'so: ' if m.role == 'assistant' and loud }}{{ m.content + '<|im_end|>\n' }}"
        "{% endfor %}{{ '<|im_start|>assistant\n' if add_generation_prompt }}"
    )
    record = {"prompt": "who?", "completion": "<|pad|>me"}
    write_lines(place / "tokens.jsonl", [record] * 4)
    out = tmp_path / "sft"
    more = ("--template", str(template), "--template-arg", "loud=true", "--show-samples", "1")
    allowed = ("--message-token", "<|pad|>")
    assert command(place, "sft", *more, *allowed, data="tokens.jsonl", output=out) == 0
    assert "[so: <|pad|>me<|im_end|>]" in capsys.readouterr().err
    again = ["sft", "--resume", "--output", str(out), "--max-steps", "3"]
    assert run(again) == 0
    assert run([*again, "--template-arg", "loud=false"]) == 1
    assert "--template-arg is loud=true in" in capsys.readouterr().err
    wrong = ("--template", str(template), "--template-arg", "load=true")
    assert command(place, "sft", *wrong, data="tokens.jsonl", output=tmp_path / "b") == 1
    assert "reads no argument 'load'; did you mean 'loud'?" in capsys.readouterr().err

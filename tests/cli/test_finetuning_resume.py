"""Runs of tuning that go on: as they were, wherever their files are."""

import pytest

from hermes.checkpoint import verify
from hermes_cli.main import run
from tests.cli.finetuning_support import command, lines
from tests.finetuning.support import (
    TEXT,
    small_checkpoint,
    some_chats,
    some_pairs,
    write_lines,
)


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


LORA = ["--lora-rank", "4", "--lora-alpha", "8"]
ANOTHER_RUN = {
    "another rank": (LORA, ["--lora-rank", "8"], "--lora-rank is 4 in {step} and 8 here"),
    "another alpha": (LORA, ["--lora-alpha", "4"], "--lora-alpha is 8.0 in {step} and 4.0 here"),
    "no adapters": (LORA, ["--lora-rank", "0"], "--lora-rank is 4 in {step} and 0 here"),
    "other matrices": (
        [*LORA, "--lora-targets", "q_proj,v_proj"],
        ["--lora-targets", "q_proj"],
        "--lora-targets is ('q_proj', 'v_proj') in {step} and ('q_proj',) here",
    ),
    "more dropout": (
        LORA,
        ["--lora-dropout", "0.5"],
        "--lora-dropout is 0.0 in {step} and 0.5 here",
    ),
    "adapters": ([], ["--lora-rank", "8"], "--lora-rank is 0 in {step} and 8 here"),
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

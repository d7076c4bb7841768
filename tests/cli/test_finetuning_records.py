"""What the commands that tune say of their records, and what they obey."""

import re

import pytest

from hermes_cli.main import run
from tests.cli.finetuning_support import command, lines
from tests.finetuning.support import (
    TEXT,
    small_tokenizer,
    some_chats,
    some_pairs,
    write_lines,
)


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


def test_dpo_shows_both_sides_of_samples(place, tmp_path, capsys):
    out = tmp_path / "dpo"
    assert command(place, "dpo", "--show-samples", "1", data="prefs.jsonl", output=out) == 0
    shown = capsys.readouterr().err
    assert shown.count(f"{place}/prefs.jsonl:1, ") == 2
    assert f"{place}/prefs.jsonl:2, " not in shown
    first = some_pairs()[0]
    assert first["chosen"] in shown
    assert first["rejected"] in shown
    assert command(place, "dpo", "--show-samples", "-1", data="prefs.jsonl", output=out) == 1


def test_a_dry_run_of_dpo_keeps_nothing(place, tmp_path, capsys):
    cache = tmp_path / "reference.npz"
    more = ["--dry-run", "--reference-cache", str(cache)]
    assert command(place, "dpo", *more, data="prefs.jsonl", output=tmp_path / "dry") == 0
    said = capsys.readouterr().err
    assert f"were computed; a run would keep them in {cache}" in said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "records", "empty"),
    [("sft", some_chats, "completion"), ("dpo", some_pairs, "rejected")],
)
def test_an_empty_answer_stops_or_is_left_out(name, records, empty, place, tmp_path, capsys):
    given = records()
    given[3] = {**given[3], empty: " "}
    file = write_lines(tmp_path / "few.jsonl", given)
    assert command(place, name, data=file, output=tmp_path / "a") == 1
    said = capsys.readouterr().err
    assert f"{file}:4: field {empty!r}: an empty completion" in said
    assert said.rstrip().endswith("--skip-bad-records leaves such records out")
    more = ["--skip-bad-records", "--max-bad-records", "0.2"]
    assert command(place, name, *more, data=file, output=tmp_path / "b") == 0
    said = capsys.readouterr().err
    assert "left out 1 bad record" in said
    assert f"{file}:4: field {empty!r}: an empty completion" in said


@pytest.mark.parametrize(("name", "data"), [("sft", "chat.jsonl"), ("dpo", "prefs.jsonl")])
def test_encoded_records_are_kept_where_the_command_says(name, data, place, tmp_path, monkeypatch):
    from hermes.chat_templates.encoder import ChatEncoder

    more = ["--cache-dir", str(tmp_path / "cache")]
    assert command(place, name, *more, data=data, output=tmp_path / "a") == 0
    assert len(list(tmp_path.glob("cache/*/examples.npz"))) == 1
    monkeypatch.setattr(ChatEncoder, "encode_many", lambda *_, **__: iter(()))
    assert command(place, name, *more, data=data, output=tmp_path / "b") == 0
    assert [one["loss"] for one in lines(tmp_path / "a") if "loss" in one] == [
        one["loss"] for one in lines(tmp_path / "b") if "loss" in one
    ]

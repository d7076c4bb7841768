"""Tokenizers from the command line: made alone, or by the run that needs one."""

import json
from pathlib import Path

import pytest

from hermes.tokenizer import SPECIAL_TOKENS, Tokenizer
from tests.cli.support import TEXT, piped, refuses


def test_train_tokenizer_writes_a_tokenizer_and_how_it_was_made(call, tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    (tmp_path / "b.jsonl").write_text('{"text": "na\\u00efve caf\\u00e9"}\n')
    output = tmp_path / "t.json"
    code, _, err = call("train-tokenizer", "--input", tmp_path / "a.txt", tmp_path / "b.jsonl",
                        "--output", output, "--vocab-size", 290)  # fmt: skip
    assert code == 0, err
    record = json.loads((tmp_path / "t.manifest.json").read_text())
    assert [Path(entry["path"]).name for entry in record["inputs"]] == ["a.txt", "b.jsonl"]
    assert record["settings"]["vocab_size"] == 290
    assert record["vocab_size"] == 290


def test_train_tokenizer_takes_special_tokens_of_ones_own(call, tmp_path):
    (tmp_path / "a.txt").write_text(TEXT)
    own = [part for name in ("<|eot_id|>", "<|eos|>") for part in ("--special-token", name)]
    code, _, err = call("train-tokenizer", "-i", tmp_path / "a.txt", "-o", tmp_path / "t.json",
                        "--vocab-size", 290, *own)  # fmt: skip
    assert code == 0, err
    made = Tokenizer.load(tmp_path / "t.json")
    assert [made.get_token_bytes(i).decode() for i in sorted(made.special_ids)] == [
        *SPECIAL_TOKENS,
        "<|eot_id|>",
    ]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ((), "byte-level BPE"),
        (("--byte-fallback",), "BPE with byte fallback"),
        (("--model-type", "unigram", "--byte-fallback"), "Unigram with byte fallback"),
        (("--model-type", "unigram"), "Unigram"),
    ],
)
def test_train_tokenizer_makes_the_kind_that_is_asked_for(call, tmp_path, options, kind):
    (tmp_path / "a.txt").write_text(TEXT)
    code, _, err = call("train-tokenizer", "-i", tmp_path / "a.txt", "-o", tmp_path / "t.json",
                        "--vocab-size", 300, *options)  # fmt: skip
    assert code == 0, err
    made = Tokenizer.load(tmp_path / "t.json")
    assert made.kind == kind
    assert made.decode(made.encode(TEXT)) == TEXT


def test_train_tokenizer_refuses_before_it_begins(call, tmp_path):
    code, _, err = call("train-tokenizer", "-i", "x.txt", "-o", tmp_path / "none/t.json")
    assert (code, err) == (
        74,
        f"Error: cannot write {tmp_path}/none/t.json: there is no folder {tmp_path}/none; "
        "make it first\n",
    )


def test_text_may_come_on_standard_input(here, tmp_path):
    """Spooled where a tokenizer is trained on it first; its vocabulary said where it came short."""
    done = piped(TEXT, "train", "--train-tokenizer", "--vocab-size", 999, "--model",
                 here / "little.mal", "--output", tmp_path / "run", "--seq-len", 16,
                 "--max-steps", 2)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "Warning: the text yields" in done.stderr
    again = piped(TEXT, "train", "--resume", "--output", tmp_path / "run", "--max-steps", 3)
    assert again.returncode == 0, again.stderr
    assert (tmp_path / "run/step-00000003").is_dir()
    other = piped(TEXT[9:], "train", "--resume", "--output", tmp_path / "run", "--max-steps", 4)
    assert other.returncode == 1
    assert "resume with the data that the run began with" in other.stderr


def test_a_trained_tokenizer_is_kept_where_it_was_asked_for(here, call, tmp_path):
    base = (
        "train",
        "-d",
        here / "text.txt",
        "-m",
        here / "little.mal",
        "--seq-len",
        16,
        "--train-tokenizer",
        "-v",
        280,
        "-t",
        tmp_path / "t.json",
        "--max-steps",
        1,
    )
    code, _, err = call(*base, "-o", tmp_path / "run")  # fmt: skip
    assert code == 0, err
    assert (tmp_path / "t.json").exists()
    made = (tmp_path / "t.json").read_bytes()
    manifest = json.loads((tmp_path / "t.manifest.json").read_text())
    for folder in (tmp_path / "run", tmp_path / "run" / "step-00000001"):
        assert json.loads((folder / "tokenizer.manifest.json").read_text()) == manifest
    code, _, err = call(*base, "-o", tmp_path / "other")
    assert code == 0
    fits = f"{tmp_path / 't.json'} fits the data and the settings, so no tokenizer is trained"
    assert fits in err.splitlines()
    code, _, err = call(*base, "-v", 281, "-o", tmp_path / "third")
    assert (code, err.splitlines()[-1]) == (
        1,
        f"Error: {tmp_path / 't.json'} is there already and was trained with --vocab-size 280, and "
        "not 281; leave --train-tokenizer out to use it, or give --force-retrain-tokenizer to "
        "replace it",
    )
    assert (tmp_path / "t.json").read_bytes() == made
    code, _, err = call(*base, "-v", 281, "-o", tmp_path / "third", "--force-retrain-tokenizer")
    assert code == 0, err
    assert Tokenizer.load(tmp_path / "t.json").vocab_size == 281
    (tmp_path / "t.manifest.json").unlink()
    code, _, err = call(*base, "-o", tmp_path / "fourth")
    assert "has no manifest beside it that says how it was trained; leave" in err


def test_a_tokenizer_that_fits_is_kept_by_train_tokenizer(call, tmp_path):
    text = tmp_path / "a.txt"
    text.write_text(TEXT)
    command = ("train-tokenizer", "-i", text, "-o", tmp_path / "t.json", "-v", 290)
    assert call(*command)[0] == 0
    first = (tmp_path / "t.manifest.json").read_bytes()
    code, _, err = call(*command)
    assert (code, err) == (
        0,
        f"{tmp_path / 't.json'} fits the text and the settings, so it is kept\n",
    )
    assert (tmp_path / "t.manifest.json").read_bytes() == first
    assert "tokens, from" in call(*command, "--force-retrain-tokenizer")[2]
    text.write_text(TEXT + "more")
    assert call(*command)[0] == 1
    assert "tokens, from" in call(*command, "--force-retrain-tokenizer")[2]
    assert (
        json.loads((tmp_path / "t.manifest.json").read_text())["inputs"]
        != json.loads(first)["inputs"]
    )
    (tmp_path / "t.json").write_bytes(b"")  # made by what chose a name, and nothing to lose
    code, _, err = call(*command[:-2], "-v", 291, "--preset", "gpt-2", "--split", tmp_path / "gpt2")
    assert code == 0, err
    again = Tokenizer.load(tmp_path / "gpt2" / "vocab.json")
    assert again.fingerprint == Tokenizer.load(tmp_path / "t.json").fingerprint


@pytest.mark.parametrize(
    ("left", "more", "misfit"),
    [
        ("tokenizer", ("-v", 281), "was trained with --vocab-size 280, and not 281"),
        ("tokenizer", ("--nfc",), "was trained with --nfc False, and not True"),
        ("tokenizer", ("b.txt",), "was trained on other text than that of b.txt"),
        ("tokenizer", ("--special-token", "<|a|>"), "was trained with --special-token "
         f"{[*SPECIAL_TOKENS]}, and not {[*SPECIAL_TOKENS, '<|a|>']}"),
        ("no manifest", (), "has no manifest beside it that says how it was trained"),
        ("text", (), "is no tokenizer"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_not_written_over_by_train_tokenizer(here, call, left, more, misfit):
    """A tokenizer that models were trained with, or a text, named by mistake."""
    output = here / "t.json"
    (here / "b.txt").write_text(TEXT)
    command = ("train-tokenizer", "text.txt", "-o", output, "-v", 280)
    assert call(*command)[0] == 0
    if left != "tokenizer":
        (here / "t.manifest.json").unlink()
    if left == "text":
        output.write_text(TEXT)
    before = output.read_bytes()
    refuses(call, 1, f"{output} is there already and {misfit}; name another --output, or give "
            "--force-retrain-tokenizer to replace it", *command, *more)  # fmt: skip
    assert output.read_bytes() == before
    assert call(*command, *more, "--force-retrain-tokenizer")[0] == 0
    assert Tokenizer.load(output).manifest


def test_everything_is_made_from_text_and_nothing_that_is_whole_twice(here, call, tmp_path):
    """One command line: a tokenizer, the tokens of its text, and the run, each said."""
    (tmp_path / "raw.txt").write_text((here / "text.txt").read_text())
    (tmp_path / "run.yaml").write_text(
        f"model: {here / 'little.mal'}\nseq_len: 16\nvocab_size: 280\nmax_steps: 2\n"
        f"train_tokenizer: true\ntokenizer: {tmp_path / 't.json'}\n"
        f"cache_dir: {tmp_path / 'cache'}\n"
    )
    command = ("train", "--data", tmp_path / "raw.txt", "--train-tokenizer",
               "--config", tmp_path / "run.yaml", "--resume", "-o")  # fmt: skip
    code, _, err = call(*command, tmp_path / "run")
    assert code == 0, err
    assert "training a tokenizer on the data" in err
    made = [path.stat().st_mtime_ns for path in sorted((tmp_path / "cache").rglob("*.bin"))]
    code, _, err = call(*command, tmp_path / "other")
    assert code == 0, err
    assert "fits the data and the settings, so no tokenizer is trained" in err
    assert (
        f"the tokens of the text are in {tmp_path / 'cache'}, so it is not tokenized again" in err
    )
    assert made == [path.stat().st_mtime_ns for path in sorted((tmp_path / "cache").rglob("*.bin"))]
    code, _, err = call(*command, tmp_path / "run")
    assert code == 0, err
    assert "is finished" in err
    models = [
        (tmp_path / run / "step-00000002/model.safetensors").read_bytes()
        for run in ("run", "other")
    ]
    assert models[0] == models[1]

"""`hermes prepare` and `hermes data`: from text to shards that training takes."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hermes
from hermes.errors import DataError
from hermes.tokenizer import Tokenizer
from tests.cli.support import TRAIN, piped, process, refuses
from tests.waiting import wait_until

PREPARE = ("prepare", "--data", "text.txt", "--tokenizer", "tokenizer.json", "--output", "tokens")


def test_text_is_prepared_verified_shown_and_trained_on(call, here):
    code, out, err = call(*PREPARE)
    assert (code, out) == (0, "")
    assert err.startswith("tokens: ")
    assert "tokens of 1 document, 4.08 kB of text from 1 file, in 1 shard" in err
    code, out, _ = call("data", "verify", "tokens")
    assert (code, out[:14]) == (0, "tokens: whole,")
    code, out, err = call("data", "show", "tokens")
    assert (code, out) == (0, Path("text.txt").read_text() + "<|eos|>\n")
    assert err.startswith("document 0: text.txt:1, ")
    train = ("train", "--data", "tokens", *TRAIN[5:], "--max-steps", 2)  # its own tokenizer
    code, _, err = call(*train)
    assert code == 0, err
    code, _, plain = call(*TRAIN[:-6], "--output", "plain", *TRAIN[-4:], "--max-steps", 2)
    assert code == 0, plain
    losses = [
        [json.loads(line)["loss"] for line in Path(run, "metrics.jsonl").read_text().splitlines()]
        for run in ("run", "plain")
    ]
    assert losses[0] == losses[1]


def test_texts_end_and_begin_with_the_tokens_that_were_chosen(call, here):
    """The folder says itself which these are, and where others are asked for they are named."""
    assert call(*PREPARE, "--eos", "<|im_end|>", "--bos")[0] == 0
    text = Path("text.txt").read_text()
    assert call("data", "show", "tokens")[1] == f"<|bos|>{text}<|im_end|>\n"
    train = ("train", "--data", "tokens", *TRAIN[5:], "--max-steps", 1)
    code, _, err = call(*train)  # with the folder's own tokenizer
    assert code == 0, err
    end = "texts end with '<|im_end|>' in tokens and with '<|eos|>' here; give --eos '<|im_end|>', "
    other = (*train[:-2], "--tokenizer", "tokenizer.json", "--output", "other")
    refuses(call, 1, f"{end}or prepare them again", *other)
    begin = "texts begin with '<|bos|>' in tokens and with nothing here; give --bos, "
    refuses(call, 1, f"{begin}or prepare them again", *other, "--eos", "<|im_end|>")
    anew = "give another --output, or delete it (rm -r tokens) and prepare the text anew"
    ids = [Tokenizer.load("tokenizer.json").find_id(one) for one in ("<|im_end|>", "<|eos|>")]
    made = f"tokens was made with token {ids[0]} at the end of a text, and not {ids[1]} (--eos); "
    refuses(call, 1, made + anew, *PREPARE)
    begun = "tokens was made with token 0 at the beginning of a text, and not nothing (--bos); "
    refuses(call, 1, begun + anew, *PREPARE, "--eos", "<|im_end|>")
    with Path("text.txt").open("a") as file:
        file.write("more")
    size = len(text.encode())
    grown = f"tokens was made with text.txt of {size:,} bytes, which has {size + 4:,} now; "
    refuses(call, 1, grown + anew, *PREPARE, "--eos", "<|im_end|>", "--bos")
    merge = "--merge takes the parts that are in --output, as they were made; leave --eos out"
    refuses(call, 1, merge, "prepare", "--merge", "--output", "tokens", "--eos", "<|im_end|>")
    with pytest.raises(DataError, match=r"^texts begin with '<|bos|>' .*; give bos=True, or"):
        hermes.train("nano", data=["tokens"], tokenizer="tokenizer.json", output="third",
                     eos="<|im_end|>")  # fmt: skip


def test_parts_are_merged(call, here):
    Path("more.jsonl").write_text('{"text": "a cat"}\n' * 50)
    for part in ("2/2", "1/2"):
        code, _, err = call(*PREPARE, "more.jsonl", "--shard-size", 500, "--part", part)
        assert (code, err[:11]) == (0, f"part {part} of")
    code, out, _ = call("prepare", "--merge", "--output", "tokens", "--json")
    assert code == 0
    facts = json.loads(out)
    assert facts["whole"]
    assert facts["files"] == 2
    assert facts["documents"] == 51
    code, _, err = call(*PREPARE, "more.jsonl", "--shard-size", 500)
    assert (code, err.splitlines()[0]) == (0, "nothing is left to do")


def test_standard_input_is_prepared(here):
    done = piped('"a"\n"b"\n', *PREPARE[:1], *PREPARE[3:], "--format", "jsonl")
    assert done.returncode == 0, done.stderr
    assert "of 2 documents" in done.stderr


def test_mistakes_are_one_line(call, here):
    refuses(call, 1, "no tokenizer: give --tokenizer FILE", "prepare", "-d", "text.txt", "-o", "t")
    refuses(
        call,
        1,
        "--merge takes the parts that are in --output, as they were made; leave --data out",
        *(*PREPARE, "--merge"),
    )
    refuses(
        call,
        1,
        "here: no parts of a preparation in it; name their folder",
        *("prepare", "--merge", "--output", "here"),
    )
    refuses(
        call,
        1,
        "none: no such folder; name a folder that hermes prepare wrote",
        *("data", "verify", "none"),
    )
    for command in ("verify", "show"):
        other = ". is the folder of a tokenizer; name a folder that hermes prepare wrote"
        refuses(call, 1, other, "data", command, ".")
    file = "text.txt is a file; name a folder that hermes prepare wrote"
    refuses(call, 1, file, "data", "show", "text.txt")


# After its first shard a preparation waits, so that it is not done when the signal comes.
HELD = """
import time
from hermes.stages import report_stage
from hermes.storage.durable import Disk
rename, shards = Disk.rename, []
def hold(self, path, target):
    while shards:
        report_stage("held")
        time.sleep(0.01)
    rename(self, path, target)
    if target.name.startswith("0") and target.suffix == ".json":
        shards.append(target)
Disk.rename = hold
"""


def test_a_command_that_was_interrupted_is_given_again(here):
    Path("site").mkdir()
    Path("site/sitecustomize.py").write_text(HELD)
    paths = os.pathsep.join([str(here / "site"), os.environ.get("PYTHONPATH", "")])
    lines = "".join(json.dumps({"text": f"{n} the cat sat " * 40}) + "\n" for n in range(4000))
    Path("text.jsonl").write_text(lines)
    arguments = ("prepare", "--data", "text.jsonl", *PREPARE[3:], "--shard-size", 50_000)
    first = process(*arguments, environment={"PYTHONPATH": paths})
    wait_until(lambda: list(Path("tokens").glob("0*.json")), process=first)
    first.send_signal(2)
    _, err = first.communicate()
    assert first.returncode == 130, err
    assert err.splitlines()[-1] == "Error: interrupted"
    assert not Path("tokens/manifest.json").exists()
    done = piped("", *arguments)
    assert done.returncode == 0, done.stderr
    assert hermes.verify_data("tokens").documents == 4000


def test_a_script_prepares_with_workers_without_a_main_guard(here):
    """Workers are processes of their own, which do not run the script again."""
    Path("script.py").write_text(
        "import hermes\n"
        "made = hermes.prepare('text.txt', 'tokenizer.json', output='tokens', workers=2)\n"
        "print(made)\n"
    )
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("PrepareResult(tokens: ")
    assert done.stdout.count("\n") == 1


def test_bad_records_and_documents_reach_training(call, here):
    Path("text.txt").write_text(Path("text.txt").read_text() + "\n" + "a cat\n" * 200)
    code, _, err = call(*TRAIN, "--max-steps", 1, "--documents", "lines", "--document-mask")
    assert code == 0, err
    Path("text.jsonl").write_text('{"text": "the cat sat on a mat"}\n' * 300 + "7\n")
    train = ("train", "--data", "text.jsonl", *TRAIN[3:-6], "--output", "other", *TRAIN[-4:])
    code, _, err = call(*train, "--max-steps", 1)
    found = "Error: text.jsonl:301: found 7 where a string or an object is needed; "
    assert (code, err.splitlines()[-1]) == (
        1,
        f"{found}--skip-bad-records leaves such records out",
    )
    with pytest.raises(DataError, match=r"; skip_bad_records=True leaves such records out$"):
        hermes.train_tokenizer("text.jsonl")
    code, _, err = call(*train, "--max-steps", 1, "--skip-bad-records")
    assert code == 0, err
    assert "left out 1 bad record:" in err
    assert "text.jsonl:301: found 7 where a string or an object is needed" in err


def test_faults_of_text_are_listed_and_exit_with_1(call, here):
    code, out, err = call("data", "check", "text.txt", "--tokenizer", "tokenizer.json")
    assert (code, err) == (0, "")
    assert out.splitlines()[0] == "read       1 file, 1 document, 4,080 bytes of text"
    Path("bad.jsonl").write_text('{"text": "a", "id": 1}\n7\n{"text": "a"}\n')
    code, out, err = call("data", "check", "--data", "bad.jsonl")
    assert (code, err) == (1, "Error: the data has faults of 1 kind\n")
    lines = out.splitlines()
    assert "not read   'id' 1" in lines
    assert "repeated   1 document; the first: bad.jsonl:3" in lines
    assert lines[-1] == (
        "fault      1 bad record; the first: bad.jsonl:2: found 7 where a string or an object is "
        "needed"
    )
    code, out, _ = call("data", "check", "bad.jsonl", "--json")
    assert code == 1
    Path("worse.jsonl").write_text('{"text": "a"}\n' + '{"body": "a", "id": 1}\n' * 12)
    code, listed, _ = call("data", "check", "worse.jsonl")
    assert code == 1
    found = "no text field 'text', only 'body', 'id'; name the one that holds text by --text-field"
    assert listed.splitlines()[-10:] == [
        f"fault      12 bad records; the first: worse.jsonl:2: {found}",
        *(f"           worse.jsonl:{line}: {found}" for line in range(3, 12)),
    ]
    assert json.loads(out)["unread"] == {"id": 1}


def test_two_processes_train_on_prepared_tokens_and_on_token_files(call, here):
    assert call(*PREPARE)[0] == 0
    (shard,) = Path("tokens").glob("*.bin")
    losses = []
    for name, processes in (("tokens", 2), (str(shard), 2), ("tokens", 1)):
        output = f"run-{len(losses)}"
        done = piped(
            "", "train", "--data", name, "--tokenizer", "tokens", "--model", "little.mal",
            "--output", output, "--seq-len", 16, "--batch-size", 4 // processes,
            "--max-steps", 2, "--num-processes", processes, "--device", "cpu",
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        lines = Path(output, "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["loss"] for line in lines])
    for found in losses[:2]:
        assert found == pytest.approx(losses[2], abs=1e-5)


def test_documents_and_steps_are_traced_and_shown(call, here):
    Path("lines.txt").write_text("the cat sat on the mat\n" * 60)
    train = ("train", "--data", "lines.txt", "--documents", "lines", *TRAIN[3:], "--max-steps", 3)
    assert call(*train)[0] == 0
    code, out, _ = call("data", "trace", "run", "--step", 2)
    assert code == 0
    place = str(Path("lines.txt").absolute())
    rows = [line for line in out.splitlines() if line.startswith("row ")]
    assert rows[0] == f"row 0 (rank 0, micro-batch 0): {place}, epoch 1"
    line = out.splitlines()[2].split()[0].removeprefix(f"{place}:")
    code, out, _ = call("data", "trace", "run", "--document", f"lines.txt:{line}")
    assert code == 0
    first, *others = out.splitlines()
    assert first.startswith(f"{place}:{line}: ")
    assert any(other.startswith("  step       2  epoch 1  row 0 (rank 0)  ") for other in others)
    code, out, _ = call("data", "trace", "run", "--document", f"lines.txt:{line}", "--json")
    (found,) = json.loads(out)["documents"]
    assert (found["where"], found["steps_done"]) == (f"{place}:{line}", 3)
    code, out, _ = call("data", "trace", "run", "--step", 2, "--json")
    assert [row["row"] for row in json.loads(out)["rows"]] == list(range(len(rows)))
    code, out, err = call("data", "show", "run", "--step", 2)
    assert code == 0
    assert out.count("sat on the mat<|eos|>") >= len(rows)
    assert err.splitlines()[0] == rows[0]
    refuses(call, 1, "give --document FILE:LINE or --step S, one of them", "data", "trace", "run")
    refuses(call, 1, "--seed belongs to --step; give both", "data", "show", "run", "--seed", 1)
    refuses(call, 1, "--document and --step are given; keep one of them",
            "data", "show", "run", "--step", 1, "--document", 0)  # fmt: skip


def test_what_was_standard_input_is_traced_and_not_waited_for(call, here, monkeypatch):
    """To show its steps, the text itself would be needed once more."""
    lines = "".join(f"the cat sat on mat {n}\n" for n in range(60)).encode()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(lines)))
    train = ("train", "--data", "-", "--documents", "lines", *TRAIN[3:], "--max-steps", 2)
    assert call(*train)[0] == 0
    code, out, _ = call("data", "trace", "run", "--document", "standard input:4")
    assert (code, out[:18]) == (0, "standard input:4: ")
    monkeypatch.setattr("sys.stdin", None)
    refuses(call, 1, "the run read standard input, which is not kept; hermes data trace tells "
            "which documents a step read", "data", "show", "run", "--step", 1)  # fmt: skip


def test_the_users_folder_is_known_by_its_sign(call, here, monkeypatch):
    """Where no shell put it: behind the = of an option, and in a file of options."""
    monkeypatch.setenv("HOME", str(here / "home"))
    Path("home/corpus").mkdir(parents=True)
    Path("text.txt").rename("home/corpus/text.txt")
    Path("tokenizer.json").rename("home/tokenizer.json")
    files = ("--data=~/corpus", "--tokenizer=~/tokenizer.json", "--output=~/tokens")
    assert call("prepare", *files)[0] == 0
    assert Path("home/tokens/manifest.json").exists()
    Path("run.yaml").write_text("data: ~/tokens\noutput: ~/run\nmodel: little.mal\nmax_steps: 1\n")
    assert call("train", "--config", "run.yaml", "--seq-len", "8", "--batch-size", "2")[0] == 0
    assert Path("home/run/run.yaml").exists()
    assert not Path("~").exists()


def test_a_text_that_is_too_short_is_named(call, here):
    """Which of a mixture, and whether it is the validation text."""
    Path("tiny.txt").write_text("the")
    train = ("train", "-m", "little.mal", "-t", "tokenizer.json", "-o", "run", "--seq-len", 16)
    for what, data in (
        ("the text", ("-d", "tiny.txt")),
        ("the text of web", ("-d", "text.txt:0.5", "-d", "web=tiny.txt:0.5")),
        ("the validation text", ("-d", "text.txt", "--val-data", "tiny.txt")),
        (
            "the validation text",
            ("-d", "a=text.txt:1", "-d", "text.txt:1", "--val-data", "tiny.txt"),
        ),
    ):
        status, _, said = call(*train, *data)
        assert status == 1
        assert f"Error: {what} has 3 tokens; 1 sequence of 16 needs 17: give more text" in said


def test_standard_input_is_read_by_one(call, here):
    """Not by the text to train on and by the validation text both."""
    twice = "Error: standard input is given twice, and can be read once; keep one -\n"
    assert call("data", "check", "-d", "-", "--val-data", "-")[::2] == (1, twice)
    train = ("train", "-m", "little.mal", "-t", "tokenizer.json", "-o", "run")
    for data in (("-d", "-"), ("-d", "a=-:1", "-d", "text.txt:1")):
        status, _, said = call(*train, *data, "--val-data", "-")
        assert (status, said.endswith(twice)) == (1, True)


def test_bars_of_lengths_are_as_wide_as_the_terminal_allows(call, here, monkeypatch):
    for columns, widest in {44: 6, 120: 40, 20: 1}.items():
        monkeypatch.setenv("COLUMNS", str(columns))
        out = call("data", "check", "text.txt")[1]
        bars = [len(line.split()[-1]) for line in out.splitlines() if line.endswith("#")]
        assert max(bars) == widest
        assert columns == 20 or max(map(len, out.splitlines()[3:5])) < columns

"""How far a preparation is: what is told moves as tokens are made, and fits where it is shown."""

import gzip
import json
import os
import pty
import re
import subprocess
import sys

import pytest

from hermes.data import files
from hermes.data.loading import DataOptions, load_tokens
from hermes.data.prepared import PreparationOptions, group, prepare_tokens
from hermes.data.progress import PreparationProgress
from hermes.stage_display import StageDisplay
from hermes.tokenizer import train_tokenizer
from tests.cli.support import read_terminal
from tests.data.test_sources import write_parquet
from tests.played_clock import play_stages

SENTENCE = "the cat sat on the mat and the dog ran after it, "
DOCUMENTS = [SENTENCE * (1 + n % 40) for n in range(400)]  # about 400 kB


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([SENTENCE * 9], vocab_size=290)


@pytest.fixture
def small_steps(monkeypatch):
    """Blocks and batches of a hundredth of their size."""
    monkeypatch.setattr(files, "BLOCK", 1 << 14)
    monkeypatch.setattr(group, "choose_batch_size", lambda: 1 << 14)
    monkeypatch.setattr("hermes.data.token_stream.choose_batch_size", lambda: 1 << 14)


def write_lines(path):
    path.write_bytes(b"".join(json.dumps({"text": one}).encode() + b"\n" for one in DOCUMENTS))
    return path


def write_gzip(path):
    path.write_bytes(gzip.compress(write_lines(path.with_name("plain.jsonl")).read_bytes()))
    return path


def write_text(path):
    path.write_text("\n".join(DOCUMENTS))
    return path


SOURCES = {
    "a.txt": write_text,
    "a.jsonl": write_lines,
    "a.jsonl.gz": write_gzip,
    "a.parquet": lambda path: write_parquet(path, [{"text": one} for one in DOCUMENTS]),
}


@pytest.mark.parametrize("way", ["prepare", "load"])
@pytest.mark.parametrize("name", SOURCES)
def test_what_is_read_moves_with_the_tokens_that_are_made(
    tmp_path, tokenizer, small_steps, name, way
):
    path, told = SOURCES[name](tmp_path / name), []

    def watch(progress):
        told.append((progress.stage, progress.read, progress.size, progress.tokens))

    if way == "prepare":
        options = PreparationOptions(shard_size=150_000)
        tokens = prepare_tokens(
            path, tokenizer, tmp_path / "o", options=options, watch=watch
        ).tokens
    else:
        with load_tokens(path, tokenizer, DataOptions(watch=watch)) as stream:
            tokens = len(stream)
    size = path.stat().st_size
    steps = [one[1:] for one in told if one[0] == "tokenizing"]
    assert {one[1] for one in steps} == {size}
    read = [one[0] for one in steps]
    assert read == sorted(read)
    assert read[-1] == size
    if name.endswith(("txt", "jsonl")):
        assert len(set(read)) > (3 if name == "a.txt" else 8)  # pieces of 131,072 characters
    if name in ("a.txt", "a.jsonl"):  # Parquet is read in many rows, and gzip in large blocks
        far = 0.1 if way == "prepare" else 0.2  # a piece of long text is read ahead
        for done, _, made in steps:
            assert abs(done / size - made / tokens) < far


def test_what_an_earlier_attempt_did_is_no_part_of_the_pace(tmp_path, tokenizer, small_steps):
    path, told = write_text(tmp_path / "a.txt"), []
    options = PreparationOptions(shard_size=100_000)

    def kill(progress):
        if progress.tokens > 60_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_tokens(path, tokenizer, tmp_path / "o", options=options, watch=kill)
    finished = [json.loads(one.read_bytes()) for one in (tmp_path / "o").glob("00000-*.json")]
    assert finished
    prepare_tokens(path, tokenizer, tmp_path / "o", options=options,
                   watch=lambda one: told.append((one.read, one.skipped)))  # fmt: skip
    skipped = max(one[1] for one in told[:-1])
    assert skipped == sum(one["text_bytes"] for one in finished)
    now = PreparationProgress(size=10_000_000, read=6_000_000, skipped=4_000_000, started=10)
    assert now.describe(12.0) == ["1.00 MB/s"]


def test_tokens_documents_and_pace_are_told():
    now = PreparationProgress(9_000_000, 3_210_000, 12_345, 890_000, started=10.0)
    assert now.describe(12.0) == ["1.60 MB/s", "890 k tokens", "12,345 documents"]
    assert now.describe(10.1) == ["890 k tokens", "12,345 documents"]
    unknown = PreparationProgress(0, 3_210_000, 12_345, 890_000, started=10.0)
    assert unknown.describe(12.0)[:2] == ["1.60 MB/s", "3.21 MB read"]


FACTS = ("1.61 MB/s", "5.30 M tokens", "12,345 documents")
SHOWN = {
    200: r"\[=+-+\] tokenizing: 43 %, 1\.61 MB/s, 5\.30 M tokens, 12,345 documents, \d s, \S+ left",
    90: r"tokenizing: 43 %, 1\.61 MB/s, 5\.30 M tokens, 12,345 documents, \d s, 0:\S+ left",
    60: r"tokenizing: 43 %, 1\.61 MB/s, 5\.30 M tokens, 0:\S+ left",
    44: r"tokenizing: 43 %, 1\.61 MB/s, 0:\S+ left",
    32: r"tokenizing: 43 %, 0:\S+ left",
    24: r"tokenizing: 43 %",
    12: r"tokenizing:",
}


@pytest.mark.parametrize("columns", SHOWN)
def test_a_stage_fits_the_terminal_whatever_its_width(monkeypatch, columns):
    clock, drawn = play_stages(monkeypatch), []
    with StageDisplay(print, drawn.append, measure=lambda: columns) as shown:
        shown.show("tokenizing", 43, 100, *FACTS)
        clock.advance(2)
    assert re.fullmatch(SHOWN[columns], drawn[0]), drawn[0]
    assert all(len(text) < columns for text in drawn)
    assert drawn[-1] == ""


# Each report is drawn before the work goes on, as if that took its time.
CODE = """
import sys, threading
import hermes
from hermes import stage_display
from hermes.data.prepared import group
from hermes.stage_display import StageDisplay
stage_display.PATIENCE = stage_display.LOG_PATIENCE = stage_display.REPEAT = 0
stage_display.REDRAW, stage_display.SOON = 0.002, 0.1
show, draw, drawn = StageDisplay.show, StageDisplay._draw, threading.Event()
def show_and_wait(self, *stage):
    show(self, *stage)
    drawn.clear()
    drawn.wait(60)
def draw_and_tell(self, now):
    draw(self, now)
    drawn.set()
StageDisplay.show, StageDisplay._draw = show_and_wait, draw_and_tell
group.choose_batch_size = lambda: 1 << 14
hermes.prepare(sys.argv[1], sys.argv[2], output=sys.argv[3], progress=True)
"""


@pytest.fixture
def preparation(tmp_path, tokenizer):
    """The command of a process that prepares some text, and shows how far it is."""
    (tmp_path / "a.txt").write_text("\n".join(DOCUMENTS))
    tokenizer.save(tmp_path / "t.json")
    return [sys.executable, "-c", CODE, *(str(tmp_path / one) for one in ("a.txt", "t.json", "o"))]


def test_a_preparation_is_shown_in_44_columns_and_leaves_nothing(preparation):
    parent, child = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "44"}
    process = subprocess.Popen(preparation, stderr=child, env=environment)
    os.close(child)
    text = read_terminal(parent)
    assert process.wait() == 0
    assert "\n" not in text
    drawn = text.split("\r\x1b[K")
    shares = [int(found[1]) for one in drawn if (found := re.match(r"tokenizing: (\d+) %", one))]
    # Their order is not looked at: Linux may deliver a later write to a terminal before the first.
    assert len(set(shares)) > 1
    assert all(len(one) < 44 for one in drawn)
    assert drawn[-1] == ""


def test_without_a_terminal_a_preparation_is_a_line_now_and_then(preparation):
    done = subprocess.run(preparation, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    lines = [one for one in done.stderr.splitlines() if one.startswith("tokenizing: ")]
    assert lines
    assert re.match(r"tokenizing: \d+ %, .*\d [kM] tokens, 1 document,", lines[-1])
    assert "\x1b" not in done.stderr

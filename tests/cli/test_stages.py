"""What takes longer than a moment says what it does, and Ctrl-C leaves no stale copy of a bar."""

import os
import pty
import re
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import hermes
from hermes.checkpoint import manifest
from hermes.data import read_documents, tokenize
from hermes.interface import Options
from hermes.stage_display import StageDisplay, show_progress
from hermes.stages import has_display, hide_stages, report_stage, show_stages
from hermes.storage.reading import hash_file
from hermes.training.events import Update
from hermes.training.host import RunHost
from hermes.training.loop import TrainingLoop
from hermes.training.progress_bar import open_progress
from tests.cli.support import HERMES, TRAIN, read_terminal, wait_for_step
from tests.played_clock import play_stages
from tests.waiting import PATIENCE, wait_until


@pytest.fixture
def clock(monkeypatch):
    """The time of stages, which are looked at often."""
    return play_stages(monkeypatch)


def test_a_stage_is_a_line_after_a_while_and_nothing_before(clock):
    lines = []
    with StageDisplay(lines.append) as shown, show_stages(shown.show):
        report_stage("short")
        clock.advance(4.9)
        assert lines == []
        report_stage("long", 1, 4)
        clock.advance(5)
        assert lines == ["long: 25 %, 5 s, 0:00:15 left"]
        report_stage("")
        clock.advance(100)
    assert len(lines) == 1


def test_short_stages_one_behind_the_other_are_no_long_silence(clock):
    """Where nothing else is drawn; a run's bar shows by itself that it is alive."""

    def count_drawn(**columns):
        drawn = []
        with StageDisplay(drawn.append, drawn.append, **columns) as shown, show_stages(shown.show):
            for number in range(6):
                report_stage(f"part {number}")
                clock.advance(0.5)
            report_stage("")
        return {text for text in drawn if text}

    assert count_drawn(measure=lambda: 80) == {"part 2, 0 s", "part 5, 0 s"}
    assert count_drawn() == set()


def test_a_stage_is_a_safe_point_for_ctrl_c():
    def check():
        raise KeyboardInterrupt

    with (
        StageDisplay(print, check=check) as shown,
        show_stages(shown.show),
        pytest.raises(KeyboardInterrupt),
    ):
        report_stage("loading")


def test_outside_of_a_block_nothing_is_shown(capsys):
    report_stage("loading", 1, 2)
    assert capsys.readouterr() == ("", "")


def test_tokenizing_says_how_far_it_is(here):
    from hermes.tokenizer import Tokenizer

    seen = []
    with show_stages(lambda *stage: seen.append(stage)):
        tokenize(read_documents("text.txt"), Tokenizer.load("tokenizer.json")).close()
    what, _, _, *facts = seen[-2]
    assert what == "tokenizing"
    assert [one.split()[-1] for one in facts if "/s" not in one] == ["read", "tokens", "document"]
    assert seen[-1] == ("", 0, 0)


def test_commands_report_each_of_their_stages(trained):
    from hermes import evaluate

    seen = []
    with show_stages(lambda what, *rest: seen.append(what.split()[0] if what else "")):
        evaluate("run", "text.txt")
    assert list(dict.fromkeys(filter(None, seen))) == [
        "loading", "reading", "building", "tokenizing", "evaluating,",
    ]  # fmt: skip
    assert seen[-1] == ""  # and what is printed afterwards has its own line


def test_a_bar_of_44_columns_keeps_step_loss_and_time_left():
    parent, child = pty.openpty()
    code = (
        "from hermes.training.progress_bar import open_progress\n"
        "from hermes.training.events import *\n"
        "bar = open_progress(100000, 0)\n"
        "bar.show(Update(54321, 0.1, 32, 3.21, 1e-3, 1.0, 1234.5))\nbar.close()\n"
    )
    subprocess.run([sys.executable, "-c", code], stderr=child, check=True,
                   env=os.environ | {"TERM": "xterm", "COLUMNS": "44"})  # fmt: skip
    os.close(child)
    text = re.sub(r"\x1b\[[0-9;?]*\w", "", read_terminal(parent))
    last = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()][-1]
    assert re.fullmatch(r"54321/100000 loss 3\.2100 \S+ left", last)


def test_lines_of_a_run_show_a_stage_that_reports_nothing_more(clock, capsys):
    shown = open_progress(10, 0)
    shown.show_stage("computing the first step", 0, 0)
    clock.advance(5)
    shown.show_stage("", 0, 0)
    shown.show(Update(1, 0.1, 8, 3.21, 1e-3, 1.0, 1.0))
    shown.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "computing the first step, 5 s"
    assert lines[1].startswith("step 1/10  loss 3.2100")
    assert len(lines) == 2


def test_a_line_in_place_has_the_time_left_and_is_erased(clock):
    drawn = []
    with StageDisplay(print, drawn.append) as shown:
        shown.show("writing tensors", 25, 100)
        clock.advance(2)
    assert drawn[0] == "writing tensors: 25 %, 2 s, 0:00:06 left"
    assert drawn[-1] == ""


@pytest.mark.parametrize(("progress", "lines"), [(True, 1), (None, 0), (False, 0)])
def test_the_library_shows_stages_where_it_is_asked_to(clock, capsys, progress, lines):
    with show_progress(progress):
        report_stage("verifying run", 1, 4)
        if progress:
            clock.advance(5)
        assert has_display() == bool(progress)
    assert len(capsys.readouterr().err.splitlines()) == lines


def test_a_program_that_shows_stages_is_not_interrupted_by_the_library(capsys):
    seen, before = [], threading.enumerate()
    with show_stages(lambda *stage: seen.append(stage)), show_progress(True):
        report_stage("verifying run", 1, 4)
        assert not [one for one in threading.enumerate() if one not in before]
    assert seen == [("verifying run", 1, 4)]
    assert capsys.readouterr().err == ""


def test_a_run_is_described_before_the_first_slow_thing(here, call):
    """The model before its data is tokenized, the run before its model is built."""
    seen = []
    host = RunHost(
        hermes.backend("torch"),
        Options(device="cpu"),
        on_model=lambda request, spec, recipe: seen.append("model"),
        on_prepared=lambda run: seen.append("run"),
        on_open=lambda run: seen.append("open"),
    )
    with show_stages(lambda what, *rest: seen.append(what)):
        hermes.train("nano", "text.txt", tokenizer="tokenizer.json", output="run",
                     max_steps=1, seq_len=16, batch_size=1, host=host)  # fmt: skip
    order = [one for one in dict.fromkeys(seen) if one]
    assert order == ["model", "tokenizing", "run", "building nano", "open"]
    code, _, said = call(*TRAIN, "--max-steps", "1", "--output", "third")
    assert code == 0
    words = [line.split()[0] for line in said.splitlines()]
    assert words.index("model") < words.index("data:") < words.index("run")


def test_a_first_step_that_takes_long_is_a_line(here, clock, capsys, monkeypatch):
    draw = TrainingLoop._draw_batch

    def draw_slowly(loop):
        if loop.position.step == 0:
            clock.advance(5)
        return draw(loop)

    monkeypatch.setattr(TrainingLoop, "_draw_batch", draw_slowly)
    hermes.train("nano", "text.txt", tokenizer="tokenizer.json", output="run", backend="torch",
                 max_steps=2, seq_len=16, batch_size=1, progress=True)  # fmt: skip
    lines = capsys.readouterr().err.splitlines()
    found = [n for n, line in enumerate(lines) if line.startswith("computing the first step, ")]
    assert len(found) == 1
    assert lines[found[0] + 1].startswith("step 1/2  loss ")


def test_conversion_and_verification_say_how_far_they_are(trained, monkeypatch):
    seen = []

    def hash_late(*given):
        wait_until(lambda: any(what.startswith("verifying") for what in seen))
        return hash_file(*given)

    monkeypatch.setattr(manifest, "hash_file", hash_late)

    with show_stages(lambda what, *rest: seen.append(what)):
        hermes.convert("run", "out", to="hf")
    kinds = {what.split()[0] for what in seen if what}
    assert {"verifying", "writing", "comparing"} <= kinds
    assert seen[-1] == ""


def test_ctrl_c_leaves_no_stale_copy_of_the_bar(here):
    parent, child = pty.openpty()
    training = subprocess.Popen(
        [HERMES, *map(str, TRAIN), "--max-steps", "100000", "--log-every", "1"],
        stderr=child, env=os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "90"},
    )  # fmt: skip
    os.close(child)
    with ThreadPoolExecutor(1) as pool:
        # A terminal that nobody reads holds its writers up.
        reading = pool.submit(read_terminal, parent)
        try:
            wait_for_step(here / "run/metrics.jsonl", 5, training)
            training.send_signal(signal.SIGINT)
            assert training.wait(timeout=PATIENCE) == 75
        finally:
            training.kill()
        text = reading.result()
    # A screen of lines, as the codes that erase a line leave them.
    screen = [""]
    for part in re.findall(r"\x1b\[[0-9;?]*\w|\r|\n|[^\x1b\r\n]+", text):
        if part == "\n":
            screen.append("")
        elif part.startswith("\x1b[") and part.endswith("K"):
            screen[-1] = ""
        elif not part.startswith("\x1b") and part != "\r":
            screen[-1] = part if screen[-1].startswith("\r") else screen[-1] + part
    bars = [line for line in screen if "/100000" in line and "loss" in line]
    assert any(line.endswith("stopping after this step; again to end at once") for line in screen)
    assert len(bars) <= 1, bars


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "--prompt", "a", "--max-tokens", "1"],
        ["eval", "--data", "text.txt"],
        ["generate", "--prompt", "a", "--max-tokens", "1", "--json"],
    ],
)
def test_whatever_computes_says_with_what_and_in_which_precision(trained, call, words):
    code, out, err = call(*words, "--checkpoint", "run", "--backend", "torch", "--device", "cpu")
    assert code == 0
    assert re.search(r"^model \w+: [\d,]+ parameters; torch \S+ on cpu, float32$", err, re.M)
    assert "parameters;" not in out


def test_hidden_stages_are_heard_by_what_looks_for_signals():
    heard = []
    with show_stages(lambda *report: heard.append(report)), hide_stages():
        report_stage("reading", 1, 2, "fast")
    assert heard == [("", 0, 0)]

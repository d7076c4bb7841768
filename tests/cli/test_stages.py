"""What takes longer than a moment says what it does, and Ctrl-C leaves no stale copy of a bar."""

import os
import pty
import re
import signal
import subprocess
import sys
import time

import pytest

from hermes.data import read_documents, tokenize
from hermes.stages import report_stage, show_stages
from hermes.training.events import Update
from hermes.training.progress_bar import open_progress
from hermes_cli.display import stage_display
from hermes_cli.display.stage_display import StageDisplay
from tests.cli.support import HERMES, TRAIN, wait_for_step


def test_a_stage_is_a_line_after_a_while_and_nothing_before(monkeypatch):
    monkeypatch.setattr(stage_display, "LOG_PATIENCE", 0.3)
    monkeypatch.setattr(stage_display, "REDRAW", 0.05)
    lines = []
    with StageDisplay(lines.append, lambda: None) as shown, show_stages(shown.show):
        report_stage("short")
        report_stage("long", 1, 4)
        time.sleep(0.6)
        report_stage("")
        time.sleep(0.4)
    assert len(lines) == 1
    assert re.fullmatch(r"long: 25 %, \d s", lines[0])


def test_a_stage_is_a_safe_point_for_ctrl_c():
    def check():
        raise KeyboardInterrupt

    with (
        StageDisplay(print, check) as shown,
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
    assert seen[-2][0] == "tokenizing, bytes"
    assert seen[-2][1] > 100
    assert seen[-1] == ("", 0, 0)


def test_commands_report_each_of_their_stages(trained):
    from hermes import evaluate

    seen = []
    with show_stages(lambda what, done, total: seen.append(what.split()[0] if what else "")):
        evaluate("run", "text.txt")
    assert list(dict.fromkeys(filter(None, seen))) == [
        "loading", "reading", "building", "tokenizing,", "evaluating,",
    ]  # fmt: skip
    assert seen[-1] == ""  # and what is printed afterwards has its own line


def read_all(parent):
    parts = []
    while True:
        try:
            parts.append(os.read(parent, 1 << 16))
        except OSError:  # the other end is closed
            return b"".join(parts).decode()
        if not parts[-1]:
            return b"".join(parts).decode()


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
    text = re.sub(r"\x1b\[[0-9;?]*\w", "", read_all(parent))
    last = [line.strip() for line in re.split(r"[\r\n]+", text) if line.strip()][-1]
    assert re.fullmatch(r"54321/100000 loss 3\.2100 \S+ left", last)


def test_a_stage_is_shown_by_the_bar_and_by_lines(capsys):
    times = iter([0.0, 0.0, 100.0, 100.0, 101.0, 102.0])
    from hermes.training.progress_bar import LineProgress

    lines = LineProgress(10, 0, sys.stderr, clock=lambda: next(times, 103.0))
    lines.show_stage("evaluating, tokens", 512, 0)
    lines.show_stage("evaluating, tokens", 1024, 0)
    assert capsys.readouterr().err == "evaluating, tokens 512\n"
    shown = open_progress(10, 0, False)
    shown.show_stage("evaluating", 1, 2)
    shown.show(Update(1, 0.1, 8, 3.21, 1e-3, 1.0, 1.0))


def test_ctrl_c_leaves_no_stale_copy_of_the_bar(here):
    parent, child = pty.openpty()
    training = subprocess.Popen(
        [HERMES, *map(str, TRAIN), "--max-steps", "100000", "--log-every", "1"],
        stderr=child, env=os.environ | {"OMP_NUM_THREADS": "1", "TERM": "xterm", "COLUMNS": "90"},
    )  # fmt: skip
    os.close(child)
    wait_for_step(here / "run/metrics.jsonl", 5)
    training.send_signal(signal.SIGINT)
    text = read_all(parent)
    assert training.wait(timeout=60) == 75
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

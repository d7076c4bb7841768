"""What a terminal shows: drawings, lines and the bar."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hermes.training.events import Evaluation, Saved, Stopped, Update
from hermes.training.plot import Curve, draw_png, draw_text
from hermes_cli.display import progress_bar
from tests.cli.support import HERMES

CURVE = Curve("run", [(s, 8 - s / 10) for s in range(1, 41)], [(20, 6.5)], [(20, "torch -> mlx")])


def test_a_drawing_has_its_axes_marks_and_both_curves():
    plain = draw_text(CURVE, width=40, height=10, braille=False)
    lines = plain.splitlines()
    assert lines[1].split("|")[0].strip() == "7.900"
    assert "*" in plain
    assert " o" in plain or "*o" in plain
    assert plain.count(":") >= 4
    assert lines[-1].strip() == "torch -> mlx"
    assert max(map(len, lines)) <= 40


def test_a_drawing_of_one_point_is_possible():
    assert "*" in draw_text(Curve("one", [(1, 5.0)]), braille=False)


def test_several_curves_share_a_picture(tmp_path):
    draw_png([CURVE, CURVE], tmp_path / "deep/er.png")
    assert (tmp_path / "deep/er.png").stat().st_size > 5_000


def test_lines_are_few_and_say_what_happened(capsys, monkeypatch):
    shown = progress_bar._Lines(2000, 0, sys.stderr, clock=iter(range(10**6)).__next__)
    for step in range(1, 2001):
        shown.show(Update(step, 0.1, step * 8, 3.21, 1e-3, 1.0, 1234.5))
    shown.show(Evaluation(2000, 3.0, 1.25))
    shown.show(Saved(2000, Path("run/step-00002000")))
    shown.show(Stopped(2000))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "step 1/2,000  loss 3.2100  1,234 tokens/s  1:06:38 left"
    assert lines[-3:] == [
        "step 2,000: validation loss 3.0000, 1.2500 bits per byte",
        "step 2,000: saved run/step-00002000",
        "step 2,000: stopped",
    ]
    assert 20 <= len(lines) - 3 <= 2000 / progress_bar.QUIET_SECONDS + 22


def test_an_update_of_pairs_shows_margin_and_accuracy(capsys):
    shown = progress_bar._Lines(2, 0, sys.stderr, clock=iter(range(10**6)).__next__)
    others = {"reward_margin": 0.0123456, "accuracy": 0.75, "kl": 2.0}
    shown.show(Update(1, 0.1, 8, 0.5, 1e-3, 1.0, 1234.5, others))
    assert capsys.readouterr().err == (
        "step 1/2  loss 0.5000, margin 0.01235, accuracy 0.75  1,234 tokens/s  0:00:02 left\n"
    )


@pytest.mark.parametrize(
    ("environment", "bold"),
    [({}, True), ({"NO_COLOR": ""}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_a_terminal_gets_colours_unless_they_are_not_wanted(here, environment, bold):
    import pty

    parent, child = pty.openpty()
    subprocess.run([HERMES, "info", "--model", "little.mal"], stdout=child, check=True,
                   env=os.environ | {"TERM": "xterm", "NO_COLOR": ""} | environment)  # fmt: skip
    os.close(child)
    shown = os.read(parent, 1 << 16).decode()
    assert "little" in shown
    assert ("\x1b[" in shown) is bold


def test_a_terminal_that_cannot_draw_gets_lines(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(progress_bar.make_reporter(10, 0), progress_bar._Lines)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(progress_bar.make_reporter(10, 0), progress_bar._Bar)


def test_a_bar_shows_loss_rate_and_time_on_a_terminal():
    import pty

    parent, child = pty.openpty()
    code = (
        "from hermes_cli.display.progress_bar import make_reporter\n"
        "from hermes.training.events import *\n"
        "bar = make_reporter(10, 0)\n"
        "bar.show(Update(4, 0.1, 32, 3.21, 1e-3, 1.0, 1234.5))\n"
        "bar.show(Evaluation(4, 3.0, 1.25))\nbar.close()\n"
    )
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    subprocess.run([sys.executable, "-c", code], stderr=child, check=True, env=environment)
    os.close(child)
    text = os.read(parent, 1 << 16).decode()
    assert "4/10" in text
    assert "loss 3.2100" in text
    assert "1,234 tokens/s" in text
    assert "step 4: validation loss 3.0000, 1.2500 bits per byte" in text
    assert text.rstrip().endswith("\x1b[?25h")  # the cursor is back

"""What a run shows while it trains: lines, the bar of a terminal and that of a notebook."""

import os
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest

from hermes.training import progress_bar
from hermes.training.events import Evaluation, Saved, Stopped, Update
from hermes.training.progress_bar import open_progress
from hermes.training.smoothed_loss import SmoothedLoss
from tests.cli.support import read_terminal


def test_lines_are_few_and_say_what_happened(capsys, monkeypatch):
    shown = progress_bar.LineProgress(2000, 0, sys.stderr, clock=iter(range(10**6)).__next__)
    for step in range(1, 2001):
        shown.show(Update(step, 0.1, step * 8, 3.21, 1e-3, 1.0, 1234.5))
    shown.show(Evaluation(2000, 3.0, 1.25))
    shown.show(Saved(2000, Path("run/step-00002000")))
    shown.show(Stopped(2000))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == (
        "step 1/2,000  loss 3.2100, smoothed 3.2100  lr 0.001, norm 1, 1,234 tokens/s  1:06:38 left"
    )
    assert lines[-3:] == [
        "step 2,000: validation loss 3.0000, 1.2500 bits per byte",
        "step 2,000: saved run/step-00002000",
        "step 2,000: stopped",
    ]
    assert 20 <= len(lines) - 3 <= 2000 / progress_bar.QUIET_SECONDS + 22


def test_an_update_of_pairs_shows_margin_and_accuracy(capsys):
    shown = progress_bar.LineProgress(2, 0, sys.stderr, clock=iter(range(10**6)).__next__)
    others = {"reward_margin": 0.0123456, "accuracy": 0.75, "kl": 2.0}
    shown.show(Update(1, 0.1, 8, 0.5, 1e-3, 1.0, 1234.5, others))
    assert capsys.readouterr().err == (
        "step 1/2  loss 0.5000, smoothed 0.5000, margin 0.01235, accuracy 0.75  "
        "lr 0.001, norm 1, 1,234 tokens/s  0:00:02 left\n"
    )


def test_a_terminal_that_cannot_draw_gets_lines(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(open_progress(10, 0), progress_bar.LineProgress)
    monkeypatch.setenv("TERM", "xterm")
    assert isinstance(open_progress(10, 0), progress_bar.BarProgress)


def test_a_bar_shows_loss_rate_and_time_on_a_terminal():
    import pty

    parent, child = pty.openpty()
    code = (
        "from hermes.training.progress_bar import open_progress\n"
        "from hermes.training.events import *\n"
        "bar = open_progress(10, 0)\n"
        "bar.show(Update(4, 0.1, 32, 3.21, 1e-3, 1.0, 1234.5))\n"
        "bar.show(Evaluation(4, 3.0, 1.25))\nbar.close()\n"
    )
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "140"}
    subprocess.run([sys.executable, "-c", code], stderr=child, check=True, env=environment)
    os.close(child)
    text = read_terminal(parent)
    assert "4/10" in text
    assert "loss 3.2100, smoothed 3.2100" in text
    assert "lr 0.001, norm 1, 1,234 tokens/s" in text
    assert "1,234 tokens/s" in text
    assert "step 4: validation loss 3.0000, 1.2500 bits per byte" in text
    assert text.rstrip().endswith("\x1b[?25h")  # the cursor is back


def test_the_library_shows_nothing_where_no_bar_can_be_drawn_unless_it_is_asked_to(monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    assert isinstance(open_progress(10, 0, None), progress_bar.NoProgress)
    assert isinstance(open_progress(10, 0, False), progress_bar.NoProgress)
    assert isinstance(open_progress(10, 0, True), progress_bar.LineProgress)


class Kernel:
    """IPython as a notebook's kernel has it, with what was displayed."""

    def __init__(self, monkeypatch):
        self.kernel, self.displayed, self.updates = object(), [], []
        display = types.SimpleNamespace(display=self.display)
        ipython = types.SimpleNamespace(get_ipython=lambda: self, display=display)
        monkeypatch.setitem(sys.modules, "IPython", ipython)
        monkeypatch.setitem(sys.modules, "IPython.display", display)

    def display(self, shown, display_id):
        assert display_id
        self.displayed.append(shown)
        return self

    def update(self, shown):
        self.updates.append((repr(shown), shown._repr_html_()))


def test_a_notebook_has_a_bar_that_is_updated_in_place(monkeypatch):
    kernel = Kernel(monkeypatch)
    bar = open_progress(10, 0, None)
    assert kernel.displayed == [bar]
    bar.show(Update(10, 0.1, 32, 3.21, 1e-3, 1.0, 1234.5))
    bar.show(Evaluation(10, 3.0, 1.25))
    bar.say("<script>")
    bar.close()
    text, drawn = kernel.updates[-1]
    assert text == (
        "10/10  loss 3.2100, smoothed 3.2100  lr 0.001, norm 1, 1,234 tokens/s  0:00:00 left\n"
        "step 10: validation loss 3.0000, 1.2500 bits per byte\n<script>"
    )
    assert '<progress value="10" max="10"' in drawn
    assert "<script>" not in drawn


def test_many_steps_redraw_a_notebook_seldom(monkeypatch):
    kernel = Kernel(monkeypatch)
    clock = iter(n / 1000 for n in range(10**6)).__next__
    bar = progress_bar.NotebookProgress(10_000, 0, clock)
    for step in range(1, 1001):
        bar.show(Update(step, 0.1, 32, 3.21, 1e-3, 1.0, 1234.5))
    assert 2 <= len(kernel.updates) <= 20


def test_a_smoothed_loss_is_the_mean_of_the_last_ones():
    smoothed = SmoothedLoss()
    assert [smoothed.add(loss) for loss in (4.0, 2.0)] == pytest.approx([4.0, (3.6 + 2) / 1.9])
    assert [smoothed.add(1.0) for _ in range(200)][-1] == pytest.approx(1.0)


def test_a_resumed_run_goes_on_with_its_smoothed_loss(go, capfd):
    """What is shown of the later steps is what a run that never stopped shows."""

    def read_shown(name, **how):
        go(name, max_steps=6, log_every=1, verbose=True, progress=True, **how)
        return re.findall(r"step (\d)/6 .*?smoothed ([\d.]+)", capfd.readouterr().err)

    whole, first = read_shown("whole"), read_shown("cut", stop_at=3)
    assert 0 < len(first) < len(whole) == 6
    assert read_shown("cut", resume=True) == whole[len(first) :]

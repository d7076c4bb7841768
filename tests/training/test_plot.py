"""Plots of runs: of a single step, of any name, and in the units of their losses."""

import json
import re

import pytest

from hermes.training.plot import Curve, draw_png, draw_text, read_curves

ONE = Curve("short", [(1, 5.0)], others={"lr": [(1, 0.1)]})
TWO = Curve("two", [(1, 6.0), (2, 5.5)])


def test_the_point_of_a_single_step_is_at_its_own_loss():
    rows = draw_text(ONE, width=40, height=13, braille=False).splitlines()
    (drawn,) = [number for number, row in enumerate(rows) if "*" in row.partition("|")[2]]
    found = {number: re.match(r"\s*([\d.]+) \|", row) for number, row in enumerate(rows)}
    labels = {number: float(match[1]) for number, match in found.items() if match}
    assert (max(labels.values()), min(labels.values())) == (5.5, 4.5)
    assert abs(drawn - (max(labels) + min(labels)) / 2) <= 1


def test_a_single_step_is_seen_in_a_picture_and_steps_are_whole(tmp_path):
    pytest.importorskip("matplotlib")
    markers = []
    for curves in ([ONE, TWO], [TWO]):
        draw_png(curves, tmp_path / "a.svg")
        text = (tmp_path / "a.svg").read_text()
        steps = re.findall(r'id="xtick_\d+">.*?<!-- (\S+) -->', text, re.DOTALL)
        assert {"1", "2"} <= set(steps)
        assert all(step.isdecimal() for step in steps)
        markers.append(len(re.findall(r"<use [^>]*fill: #0072b2", text)))
    assert markers[0] >= 2  # of the loss, and of the learning rate below
    assert markers[1] == 0


def write_run(folder, **more):
    folder.mkdir(parents=True)
    lines = [{"step": step, "loss": 7.0 - step, **more} for step in (1, 2, 3)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def test_runs_of_one_name_are_told_apart(tmp_path, monkeypatch):
    runs = [write_run(tmp_path / "a" / "run"), write_run(tmp_path / "b" / "run"),
            write_run(tmp_path / "other")]  # fmt: skip
    assert [one.name for one in read_curves(runs)] == [str(runs[0]), str(runs[1]), "other"]
    monkeypatch.chdir(runs[2])
    assert [one.name for one in read_curves([".", "../a/run"])] == ["other", "run"]


def test_a_loss_of_pairs_is_not_called_one_of_tokens(tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # text as text
    text, pairs = read_curves(
        [write_run(tmp_path / "text"), write_run(tmp_path / "dpo", reward_margin=0.5)]
    )
    assert draw_text(text).startswith("loss (nats per token)\n")
    assert draw_text(pairs).startswith("loss (nats per pair)\n")
    for curves, said in (([text], "token"), ([pairs], "pair"), ([pairs, text], "token or pair")):
        draw_png(curves, tmp_path / "a.svg")
        assert f">loss (nats per {said})<" in (tmp_path / "a.svg").read_text()


def test_no_name_is_a_formula_or_hidden(tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")
    curves = read_curves([write_run(tmp_path / "$x^$"), write_run(tmp_path / "_hidden")])
    draw_png(curves, tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    assert ">Loss of $x^$, _hidden<" in drawn
    legend = drawn[drawn.index('id="legend') :]
    assert "$x^$<" in legend
    assert "_hidden<" in legend

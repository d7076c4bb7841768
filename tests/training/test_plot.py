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


def test_large_losses_stay_in_their_column():
    drawn = draw_text(Curve("run", [(1, 12345.6), (2, 3.0)]), width=50, braille=False)
    rows = [row for row in drawn.splitlines() if "|" in row]
    assert {row.index("|") for row in rows} == {7}
    assert [row[:7].strip() for row in rows if row[:7].strip()] == [
        *("12346", "9260.0", "6174.3", "3088.6", "3.000"),
    ]  # fmt: skip


def test_losses_at_the_ends_of_float64_are_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    run = write_run(tmp_path / "run")
    lines = [{"step": 1, "loss": 1.7e308}, {"step": 2, "loss": -1.7e308}, {"step": 3, "loss": 1}]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (run / "metrics.jsonl").write_text(text)
    (curve,) = read_curves([run])
    assert "*" in draw_text(curve, braille=False)
    assert max(map(len, draw_text(curve, width=60).splitlines())) <= 61
    draw_png([curve], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5_000


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

"""Plots of runs that have a single step so far."""

import re

import pytest

from hermes.training.plot import Curve, draw_png, draw_text

ONE = Curve("short", [(1, 5.0)], others={"lr": [(1, 0.1)]})
TWO = Curve("two", [(1, 6.0), (2, 5.5)])


def test_its_point_is_at_its_own_loss():
    rows = draw_text(ONE, width=40, height=13, braille=False).splitlines()
    (drawn,) = [number for number, row in enumerate(rows) if "*" in row.partition("|")[2]]
    found = {number: re.match(r"\s*([\d.]+) \|", row) for number, row in enumerate(rows)}
    labels = {number: float(match[1]) for number, match in found.items() if match}
    assert (max(labels.values()), min(labels.values())) == (5.5, 4.5)
    assert abs(drawn - (max(labels) + min(labels)) / 2) <= 1


def test_it_is_seen_in_a_picture_and_steps_are_whole(tmp_path):
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

"""What a terminal shows: drawings and colours."""

import dataclasses
import os
import subprocess

import pytest

from hermes.errors import HermesError
from hermes.training.plot import Curve, draw_png, draw_text
from tests.cli.support import HERMES, read_terminal

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


def test_the_ending_of_a_picture_chooses_its_format(tmp_path):
    draw_png([CURVE], tmp_path / "a.svg")
    drawn = (tmp_path / "a.svg").read_text()
    assert drawn.lstrip().startswith("<?xml")
    draw_png([CURVE], tmp_path / "a.png")
    header = (tmp_path / "a.png").read_bytes()[:24]
    assert (int.from_bytes(header[16:20]), int.from_bytes(header[20:24])) == (2160, 1800)
    with pytest.raises(HermesError) as refused:
        draw_png([CURVE], tmp_path / "a.jpg")
    assert str(refused.value).endswith("a.jpg: a plot ends in .png, .svg, .pdf, not in .jpg")


def test_a_picture_has_a_title_and_says_whose_a_hand_over_is(tmp_path, monkeypatch):
    import matplotlib

    monkeypatch.setitem(matplotlib.rcParams, "svg.fonttype", "none")  # text as text
    draw_png([CURVE], tmp_path / "one.svg")
    one = (tmp_path / "one.svg").read_text()
    assert ">Loss of run<" in one
    assert ">torch \N{RIGHTWARDS ARROW} mlx<" in one
    other = dataclasses.replace(CURVE, name="other", marks=[])
    draw_png([CURVE, other], tmp_path / "two.svg")
    two = (tmp_path / "two.svg").read_text()
    assert ">Loss of run, other<" in two
    assert ">run: torch \N{RIGHTWARDS ARROW} mlx<" in two
    assert "other: torch" not in two


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
    shown = read_terminal(parent)
    assert "little" in shown
    assert ("\x1b[" in shown) is bold

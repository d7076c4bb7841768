"""Curves of loss, as a PNG (matplotlib) and as text for a terminal. Imports both only when used."""

import math
import os
import textwrap
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hermes.errors import HermesError
from hermes.figures import make_figure, write_figure
from hermes.training.metrics_file import read_metrics
from hermes.training.run_yaml import list_handovers

__all__ = ["Curve", "draw_png", "draw_text", "read_curves"]

# Colours that colour-blind readers tell apart, light ones last, and markers besides.
# Source: Okabe and Ito 2008, "Color Universal Design".
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")

# What is drawn below the loss, and its title.
OTHERS = {
    "lr": "learning rate",
    "grad_norm": "gradient norm before clipping",
    "tokens_per_second": "tokens per second",
}

LARGEST = 1e300  # what is beyond is drawn there: differences of such numbers are no numbers

Point = tuple[float, float]


@dataclass(frozen=True)
class Curve:
    """A run's loss over its steps, in nats per token, and the steps at which something changed.

    others: what else is drawn of a run, by its key in metrics.jsonl. unit: what the loss is of,
    "token", or "pair" in preference training.
    """

    name: str
    train: list[Point]
    val: list[Point] = field(default_factory=list)
    marks: list[tuple[float, str]] = field(default_factory=list)
    others: dict[str, list[Point]] = field(default_factory=dict)
    unit: str = "token"


def read_curves(runs: Sequence[str | Path]) -> list[Curve]:
    """What the metrics.jsonl of each run says; runs of one name have their folders' as given."""
    # Not Path's own: of '.' that would be no name, and of '..' those dots.
    names = [os.path.basename(os.path.abspath(run)) for run in runs]
    count = Counter(names)
    return [
        _read_curve(Path(run), name if name and count[name] == 1 else str(run))
        for run, name in zip(runs, names, strict=True)
    ]


def _read_curve(run: Path, name: str) -> Curve:
    records = [
        {key: min(max(value, -LARGEST), LARGEST) for key, value in record.items()}
        for record in read_metrics(run)
    ]
    train = [(r["step"], r["loss"]) for r in records if "loss" in r]
    val = [(r["step"], r["val_loss"]) for r in records if "val_loss" in r]
    if not train:
        raise HermesError(f"{run}: metrics.jsonl has no step yet, so there is nothing to plot")
    others = {
        key: [(r["step"], r[key]) for r in records if key in r and "loss" in r] for key in OTHERS
    }
    unit = "pair" if any("reward_margin" in record for record in records) else "token"
    return Curve(name, train, val, [*list_handovers(run)], others, unit)


def _describe_loss(curves: Sequence[Curve]) -> str:
    """What the axis of losses is."""
    return f"loss (nats per {' or '.join(sorted({one.unit for one in curves}, reverse=True))})"


def _spell(name: str) -> str:
    """A run's name as matplotlib shows it: a dollar begins no formula, and none is left out."""
    text = name.replace("$", r"\$")
    return f" {text}" if text.startswith("_") else text


def _smooth(points: Sequence[Point]) -> list[Point]:
    """The mean of each point's surroundings, a fiftieth of the curve wide."""
    reach = len(points) // 100
    sums = [0.0]
    for _, y in points:
        sums.append(sums[-1] + y)
    return [
        (x, (sums[min(i + reach + 1, len(points))] - sums[max(i - reach, 0)]) / width)
        for i, (x, _) in enumerate(points)
        for width in [min(i + reach + 1, len(points)) - max(i - reach, 0)]
    ]


def draw_png(curves: Sequence[Curve], path: Path) -> None:
    """Write the curves to `path`; every logged loss pale, its running mean and validation bold.

    Below it are learning rate, gradient norm and throughput. The ending chooses the format: .png,
    of 2160 x 1800 pixels, .svg or .pdf. Raises HermesError.
    """
    figure = make_figure(path, (9, 7.5), 240, "a PNG plot")
    rows = figure.add_gridspec(2, len(OTHERS), height_ratios=(2.2, 1))
    _draw_loss(figure.add_subplot(rows[0, :]), curves)
    for column, (key, title) in enumerate(OTHERS.items()):
        _draw_other(figure.add_subplot(rows[1, column]), curves, key, title)
    write_figure(figure, path)


def _draw_loss(axes: Any, curves: Sequence[Curve]) -> None:
    for index, one in enumerate(curves):
        colour, second = COLOURS[index % len(COLOURS)], COLOURS[(index + 1) % len(COLOURS)]
        marker = MARKERS[index % len(MARKERS)]
        name = _spell(one.name)
        label = name if len(curves) > 1 else "training"
        axes.plot(*zip(*one.train, strict=True), color=colour, alpha=0.25, linewidth=0.8)
        dot = marker if len(one.train) == 1 else None  # of a single step there is no line
        axes.plot(*zip(*_smooth(one.train), strict=True), marker=dot, color=colour, label=label)
        if one.val:
            (line,) = axes.plot(*zip(*one.val, strict=True), f"{marker}--", markersize=5)
            line.set_color(colour if len(curves) > 1 else second)
            line.set_label(f"{name}, validation" if len(curves) > 1 else "validation")
        for step, text in one.marks:
            whose = colour if len(curves) > 1 else "0.35"
            arrow = text.replace("->", "\N{RIGHTWARDS ARROW}")
            axes.axvline(step, color=whose, linestyle=":", linewidth=1.2)
            axes.annotate(
                f"{name}: {arrow}" if len(curves) > 1 else arrow,
                (step, 0.97 - 0.05 * index),
                xycoords=("data", "axes fraction"),
                xytext=(5, 0),
                textcoords="offset points",
                va="top",
                color=whose,
            )
    title = textwrap.shorten("Loss of " + ", ".join(one.name for one in curves), 90)
    axes.set(xlabel="step", ylabel=_describe_loss(curves), title=_spell(title))
    _style(axes)
    axes.legend(frameon=False)


def _draw_other(axes: Any, curves: Sequence[Curve], key: str, title: str) -> None:
    for index, one in enumerate(curves):
        if points := one.others.get(key):
            colour = COLOURS[index % len(COLOURS)]
            dot = MARKERS[index % len(MARKERS)] if len(points) == 1 else None
            axes.plot(*zip(*points, strict=True), marker=dot, color=colour, linewidth=0.9)
    axes.set_title(title, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.set_ylim(bottom=0)
    axes.ticklabel_format(axis="y", scilimits=(-3, 5))
    _style(axes)


def _style(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)  # steps
    axes.spines[["top", "right"]].set_visible(False)


class _Grid:
    """A drawing of dots, 2 by 4 to the character, over which characters can be set."""

    def __init__(self, width: int, height: int):
        self.width, self.height = width, height
        self._dots = [[0] * width for _ in range(height)]
        self._over = [[""] * width for _ in range(height)]

    def set_dot(self, x: float, y: float) -> None:
        """Set the dot at (x, y), each from 0 at the lower left to 1."""
        column = round(x * (2 * self.width - 1))
        row = round((1 - y) * (4 * self.height - 1))
        # Braille patterns number their dots down the left column, then the right, then below.
        bit = ((0, 3), (1, 4), (2, 5), (6, 7))[row % 4][column % 2]
        self._dots[row // 4][column // 2] |= 1 << bit

    def put(self, x: float, y: float, character: str) -> None:
        """Set the character at (x, y), above all dots."""
        column, row = round(x * (self.width - 1)), round((1 - y) * (self.height - 1))
        self._over[row][column] = character

    def draw_column(self, x: float, character: str) -> None:
        """Set a character from top to bottom where nothing is drawn."""
        place = round(x * (self.width - 1))
        for row in range(self.height):
            if not self._dots[row][place] and not self._over[row][place]:
                self._over[row][place] = character

    def render_rows(self, *, braille: bool) -> list[str]:
        """The drawing, top first; without braille each dotted character is an asterisk."""

        def cell(dots: int, over: str) -> str:
            if over or not dots:
                return over or " "
            return chr(0x2800 + dots) if braille else "*"

        return ["".join(map(cell, *pair)) for pair in zip(self._dots, self._over, strict=True)]


def _format_tick(value: float, width: int) -> str:
    """A number of the axis with the most decimals, up to three, that leave it so wide."""
    forms = (f"{value:.3f}", f"{value:.1f}", f"{value:.0f}", f"{value:.0e}")
    return next((text for text in forms if len(text) <= width), forms[-1])


def draw_text(one: Curve, *, width: int = 72, height: int = 16, braille: bool = True) -> str:
    """The curve in characters: training's running mean in dots, validation as 'o', a mark as ':'.

    width and height are in characters and include the axes.
    """
    margin = 7
    grid = _Grid(max(width - margin - 1, 10), max(height - 3, 4))
    train = _smooth(one.train)
    points = train + one.val
    last = max(x for x, _ in points)
    low, high = min(y for _, y in points), max(y for _, y in points)
    if high == low:  # in the middle, whose label it then is
        low, high = low - 0.5, high + 0.5
    rise, run = high - low, last - 1 or 1.0

    def place(x: float, y: float) -> Point:
        return min(max((x - 1) / run, 0.0), 1.0), (y - low) / rise

    previous: Point | None = None
    for x, y in (place(*point) for point in train):
        if previous is not None:
            # Enough dots to join two points without a gap.
            wide = abs(x - previous[0]) * 2 * grid.width
            tall = abs(y - previous[1]) * 4 * grid.height
            parts = max(math.ceil(max(wide, tall)), 1)
            for part in range(parts):
                share = part / parts
                grid.set_dot(
                    previous[0] + (x - previous[0]) * share,
                    previous[1] + (y - previous[1]) * share,
                )
        grid.set_dot(x, y)
        previous = (x, y)
    for point in one.val:
        grid.put(*place(*point), "o")
    labels = [" "] * (grid.width + 1)
    for step, text in one.marks:
        x, _ = place(step, low)
        grid.draw_column(x, ":")
        start = max(min(round(x * (grid.width - 1)) - len(text) // 2, grid.width - len(text)), 0)
        labels[start : start + len(text)] = text
    rows = grid.render_rows(braille=braille)
    ticks = {
        round(share * (len(rows) - 1)): high - share * rise for share in (0, 0.25, 0.5, 0.75, 1)
    }
    lines = [_describe_loss([one]) + ("; o is validation" if one.val else "")]
    for index, row in enumerate(rows):
        tick = _format_tick(ticks[index], margin - 1) if index in ticks else ""
        tick = tick.rjust(margin - 1)
        lines.append(f"{tick} |{row}".rstrip())
    end = f"{last:g}"
    steps = "1" + "step".center(grid.width - len(end) - 1) + end
    lines.append(" " * margin + "+" + "-" * grid.width)
    lines.append(" " * (margin + 1) + steps)
    if one.marks:
        lines.append(" " * (margin + 1) + "".join(labels).rstrip())
    return "\n".join(lines)

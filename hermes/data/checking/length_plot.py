"""The lengths of examples as a picture (matplotlib, the extra `plot`)."""

from collections.abc import Sequence
from pathlib import Path

from hermes.data.checking.findings import UNITS, Findings
from hermes.figures import make_figure, write_figure

__all__ = ["count_longer", "draw_lengths"]

COLOUR, OVER = "#0072B2", "#D55E00"  # Okabe and Ito 2008, "Color Universal Design"


def draw_lengths(found: Findings, path: Path, seq_len: int) -> None:
    """Draw how many examples have which length; those beyond seq_len in another colour.

    Raises HermesError where matplotlib is not installed, StorageError.
    """
    figure = make_figure(path, (9, 5), 200, "--plot")
    axes = figure.add_subplot()
    unit = "characters" if found.tokens is None else "tokens"
    first = min(found.lengths, default=2).bit_length() - 1
    last = max(found.lengths, default=2).bit_length() - 1
    bounds = [1 << power for power in range(first, last + 1)]
    counts = [found.lengths.get(bound, 0) for bound in bounds]
    labels = [_name_range(bound) for bound in bounds]
    over = count_longer(counts, found.longer or 0)
    under = [count - more for count, more in zip(counts, over, strict=True)]
    axes.bar(labels, under, color=COLOUR, width=0.85)
    bars = axes.bar(labels, over, bottom=under, color=OVER, width=0.85)
    numbers = [f"{count:,}" if count else "" for count in counts]
    axes.bar_label(bars, numbers, padding=3, bbox={"facecolor": "w", "edgecolor": "w", "pad": 1})
    many = UNITS[found.kind][0] if found.tokens is None else "examples"
    title = f"Lengths of {found.examples:,} {many}"
    if found.longer is not None:
        title += f"; {found.longer:,} longer than {seq_len:,} tokens"
        if first <= seq_len.bit_length() <= last:
            # Inside the bar of its power of two, as far as its share of that bar's width.
            low = 1 << (seq_len.bit_length() - 1)
            at = seq_len.bit_length() - first - 0.425 + 0.85 * (seq_len - low) / low
            axes.axvline(at, color="0.3", linestyle=":", linewidth=1.2)
            axes.annotate(
                f"--seq-len {seq_len:,}",
                (at, 0.985),
                xycoords=("data", "axes fraction"),
                xytext=(5, 0),
                textcoords="offset points",
                va="top",
                color="0.3",
            )
    axes.set(xlabel=f"length in {unit}", ylabel=many, title=title)
    axes.margins(y=0.12)  # room for the line's name above the bars
    axes.tick_params(axis="x", rotation=30 if len(bounds) > 9 else 0)
    axes.spines[["top", "right"]].set_visible(False)
    write_figure(figure, path)


def count_longer(counts: Sequence[int], longer: int) -> list[int]:
    """How many of each bar's examples are too long, of which there are `longer` in all.

    counts: of the bars, the shortest examples first.
    """
    found = []
    for count in reversed(counts):
        found.append(min(count, longer))
        longer -= found[-1]
    return found[::-1]


def _name_range(bound: int) -> str:
    """The lengths below a power of two and from the one before it on."""
    low, high = bound // 2, bound - 1
    return f"{low:,}" if low >= high else f"{low:,}-{high:,}"

"""The picture of lengths: its file, its bars, and the line of --seq-len at its place."""

import json

import pytest

import hermes
from hermes.data.checking import Findings, length_plot
from hermes.data.checking.length_plot import count_longer
from hermes.errors import HermesError


def test_the_lengths_are_drawn(write, tokenizer):
    pytest.importorskip("matplotlib")
    path = write("a.jsonl", "".join(json.dumps({"text": "a " * n}) + "\n" for n in range(1, 99)))
    picture = path.parent / "plots" / "lengths.svg"
    hermes.check_data(path, tokenizer=tokenizer, seq_len=50, plot=picture)
    assert b"<svg" in picture.read_bytes()
    with pytest.raises(HermesError, match=r"ends in \.png, \.svg, \.pdf, not in \.gif"):
        hermes.check_data(path, tokenizer=tokenizer, plot=path.parent / "a.gif")


@pytest.mark.parametrize("seq_len", [1, 63, 64, 100, 127, 1000])
def test_a_bar_of_the_picture_tells_which_of_its_examples_are_too_long(seq_len):
    lengths = range(16, 300)
    bars = [[n for n in lengths if 1 << k <= n < 2 << k] for k in range(4, 9)]
    longer = sum(n > seq_len for n in lengths)
    assert count_longer([len(bar) for bar in bars], longer) == [
        sum(n > seq_len for n in bar) for bar in bars
    ]


@pytest.fixture
def draw(monkeypatch, tmp_path):
    """Draw found lengths, and give the figure's axes instead of its file."""
    pytest.importorskip("matplotlib")
    figures = []
    monkeypatch.setattr(length_plot, "write_figure", lambda figure, path: figures.append(figure))

    def drawn(lengths, seq_len, longer):
        found = Findings(examples=sum(lengths.values()), tokens=1, longer=longer, lengths=lengths)
        length_plot.draw_lengths(found, tmp_path / "lengths.svg", seq_len)
        return figures[-1].axes[0]

    return drawn


def read_range(label):
    """The first length of a bar and the first behind it, from its label."""
    first, _, last = label.replace(",", "").partition("-")
    return int(first), int(last or first) + 1


LENGTHS = {2: 3, 4: 5, 16: 7, 2048: 11}  # bars of the lengths 1, 2-3, 4-7, ..., 1,024-2,047


@pytest.mark.parametrize("seq_len", [1, 2, 3, 4, 7, 8, 9, 100, 1024, 1536, 2047])
def test_the_line_of_seq_len_stands_as_far_into_its_bar_as_its_share_of_the_lengths(draw, seq_len):
    axes = draw(LENGTHS, seq_len, 11)
    labels = [label.get_text() for label in axes.get_xticklabels()]
    (index,) = [n for n, label in enumerate(labels) if seq_len in range(*read_range(label))]
    low, end = read_range(labels[index])
    bar = axes.containers[0][index]
    (line,) = axes.lines
    share = (line.get_xdata()[0] - bar.get_x()) / bar.get_width()
    assert share == pytest.approx((seq_len - low) / (end - low))
    (name,) = [text for text in axes.texts if text.get_text() == f"--seq-len {seq_len:,}"]
    assert name.xy[0] == line.get_xdata()[0]
    assert f"; 11 longer than {seq_len:,} tokens" in axes.get_title()


@pytest.mark.parametrize("seq_len", [7, 64])
def test_a_seq_len_outside_of_all_bars_has_no_line(draw, seq_len):
    axes = draw({16: 2, 32: 4, 64: 1}, seq_len, 3)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["8-15", "16-31", "32-63"]
    assert not axes.lines
    assert "longer than" in axes.get_title()


def test_bars_have_their_numbers_and_the_longer_ones_stand_on_the_others(draw):
    axes = draw({16: 2, 64: 1234}, 40, 1000)
    under, over = axes.containers
    assert [(bar.get_y(), bar.get_height()) for bar in under] == [(0, 2), (0, 0), (0, 234)]
    assert [(bar.get_y(), bar.get_height()) for bar in over] == [(2, 0), (0, 0), (234, 1000)]
    assert [bar.get_x() for bar in over] == [bar.get_x() for bar in under]
    assert [bar.get_width() for bar in over] == [bar.get_width() for bar in under]
    assert [text.get_text() for text in axes.texts if "seq" not in text.get_text()] == [
        "2",
        "",
        "1,234",
    ]


def test_without_a_tokenizer_or_without_examples_there_are_bars_and_no_line(draw):
    axes = draw({}, 40, None)
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1"]
    assert [bar.get_height() for bar in axes.containers[0]] == [0]
    assert not axes.lines
    assert "longer" not in axes.get_title()

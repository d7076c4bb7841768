"""The data order: pinned, and what is held out of it."""

import json
import math
from dataclasses import asdict

import pytest

from hermes.data import (
    Cursor,
    TextDataset,
    count_run_samples,
    split_windows,
)
from hermes.data.order import order_samples
from hermes.errors import DataError
from tests.data.support import stream_of


def test_the_order_is_pinned():
    """A change here changes what every resumed run sees next: it must not happen."""
    assert order_samples(7, Cursor(1, 2), 6, 10).tolist() == [4, 3, 1, 8, 5, 9]


def test_a_fraction_holds_out_at_least_one_sample_and_leaves_one():
    assert split_windows(101, 0.001, 10) == (range(9), range(9, 10))
    assert split_windows(21, 0.99, 10) == (range(1), range(1, 2))
    assert split_windows(1001, 0.25, 10) == (range(75), range(75, 100))


@pytest.mark.parametrize(
    ("tokens", "fraction", "expected"),
    [
        (
            10,
            0.0,
            "the text has 10 tokens; 1 sequence of 10 needs 11: give more text or a shorter "
            "--seq-len",
        ),
        (
            20,
            0.1,
            "the text has 20 tokens; 2 sequences of 10 need 21 (one to train on, one to hold out): "
            "give more text or a shorter --seq-len",
        ),
    ],
)
def test_too_small_a_text_is_refused_with_both_numbers(tokens, fraction, expected):
    with pytest.raises(DataError) as error:
        TextDataset(stream_of(tokens), seq_len=10, vocab_size=100, val_fraction=fraction)
    assert str(error.value) == expected
    TextDataset(stream_of(tokens + 1), seq_len=10, vocab_size=100, val_fraction=fraction)


@pytest.mark.parametrize(
    ("epochs", "max_steps", "expected"),
    [(1, 0, 100), (2.5, 0, 250), (0.001, 0, 1), (1, 3, 24), (1, 1000, 8000)],
)
def test_how_many_samples_a_run_takes(epochs, max_steps, expected):
    taken = count_run_samples(100, epochs=epochs, max_steps=max_steps, per_update=8)
    assert taken == expected
    assert math.ceil(taken / 8) >= 1


def test_a_cursor_can_be_written_down():
    assert Cursor(**json.loads(json.dumps(asdict(Cursor(2, 3))))) == Cursor(2, 3)
    assert Cursor(2, 3).count_samples(10) == 23

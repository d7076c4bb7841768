"""Batches drawn ahead in a thread are those drawn when they are needed."""

import threading

import numpy as np
import pytest

from hermes.data import Cursor, TextDataset, TokenStream
from hermes.errors import DataError
from hermes.training.batch_reader import BatchReader, BatchShape, StepSize

FOUR = StepSize(4, 2)
SHAPE = BatchShape(accum=2)


def make_dataset():
    return TextDataset(TokenStream.from_ids(range(101)), seq_len=10, vocab_size=101)


def test_batches_drawn_ahead_are_the_same():
    dataset, cursor = make_dataset(), Cursor()
    with BatchReader(dataset, SHAPE) as reader:
        for _ in range(7):
            batch, after = reader.draw(cursor, FOUR)
            expected, then = dataset.draw_batch(cursor, samples=4, micro_batch=2, accum=2)
            np.testing.assert_array_equal(batch.tokens, expected.tokens)
            assert after == then
            reader.draw_ahead(after, FOUR)
            cursor = after


def test_the_next_batch_is_drawn_in_a_thread_of_its_own():
    dataset, threads = make_dataset(), []
    original = dataset.draw_batch

    def draw_batch(*arguments, **options):
        threads.append(threading.current_thread().name)
        return original(*arguments, **options)

    dataset.draw_batch = draw_batch
    with BatchReader(dataset, SHAPE) as reader:
        _, after = reader.draw(Cursor(), FOUR)
        reader.draw_ahead(after, FOUR)
        reader.draw(after, FOUR)
        reader.draw_ahead(after, FOUR)
        reader.draw(after, StepSize(3, 2))  # another than the one drawn ahead
    assert threads[0] == threads[-1] == "MainThread"
    assert threads[1].startswith("batches")
    assert not [one for one in threading.enumerate() if one.name.startswith("batches")]


def test_an_error_of_the_thread_is_raised_where_the_batch_is_needed():
    with BatchReader(make_dataset(), SHAPE) as reader:
        reader.draw_ahead(Cursor(), StepSize(99, 2))
        with pytest.raises(DataError, match=r"^99 samples do not fit a step of 4 rows$"):
            reader.draw(Cursor(), StepSize(99, 2))

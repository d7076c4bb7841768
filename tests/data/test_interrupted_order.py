"""The samples of a run that is interrupted are those of an unbroken one, in the same order."""

import json
from dataclasses import asdict
from itertools import combinations, pairwise

import numpy as np
import pytest

from hermes.chat_templates.example import Example
from hermes.data import Cursor, TextDataset
from hermes.data.example_dataset import ExampleDataset
from hermes.training.batch_reader import BatchReader, BatchShape, StepSize
from tests.data.support import stream_of

SAMPLES, STEP = 40, 8  # of an epoch, and of an update: 5 updates are an epoch
UPDATES = 12
POINTS = (1, 2, 4, 5, 6)  # after the first, in the middle, around the end of the first epoch
# Processes, accumulation and rows of a micro-batch: eight samples each time.
SPLITS = {1: (1, 1, 8), 2: (2, 2, 2), 4: (4, 1, 2)}


def make_text():
    return TextDataset(stream_of(SAMPLES * 10 + 1), seq_len=10, vocab_size=500)


def make_examples(pack):
    def make():
        sizes = [4 + number * 7 % 5 for number in range(SAMPLES if not pack else 400)]
        examples = [
            Example(np.arange(size) + number, np.ones(size, bool), f"a.jsonl:{number}")
            for number, size in enumerate(sizes)
        ]
        return ExampleDataset(examples, seq_len=10, vocab_size=500, pack=pack, seed=3)

    return make


DATASETS = {"text": make_text, "rows": make_examples(False), "packed": make_examples(True)}


def take(dataset, cursor, world_size, updates):
    """The rows of some updates in the order of their numbers, and the next cursor."""
    ranks, accum, micro_batch = SPLITS[world_size]
    taken = []
    for _ in range(updates):
        found, cursors = [], set()
        for rank in range(ranks):
            with BatchReader(dataset, BatchShape(accum, rank, ranks)) as reader:
                batch, after = reader.draw(cursor, StepSize(STEP, micro_batch))
            rows = zip(batch.rows.ravel().tolist(), batch.tokens.reshape(-1, 10), strict=True)
            found += [(number, row.tolist()) for number, row in rows]
            cursors.add(after)
        (cursor,) = cursors  # all ranks agree
        numbers = sorted(number for number, _ in found)
        assert len(set(numbers)) == STEP
        taken += [row for _, row in sorted(found)]
    return taken, cursor


def resume(cursor):
    """A cursor as a checkpoint keeps it."""
    return Cursor(**json.loads(json.dumps(asdict(cursor))))


@pytest.mark.parametrize("kind", DATASETS)
def test_interrupted_runs_take_the_samples_of_an_unbroken_one(kind):
    """Stopped once, twice and three times, each time going on with another number of processes."""
    dataset, *others = (DATASETS[kind]() for _ in range(4))  # each process makes its own
    whole, end = take(dataset, Cursor(), 1, UPDATES)
    size = len(dataset.train)
    epoch = [tuple(row) for row in whole[:size]]
    if kind == "text":
        assert len(set(epoch)) == size == SAMPLES
        assert sorted(whole[size : 2 * size]) == sorted(whole[:size]) != whole[size : 2 * size]
    runs = 0
    for times in (0, 1, 2, 3):
        for stops in combinations(POINTS, times):
            for first in SPLITS:
                taken, cursor, turn = [], Cursor(), [*SPLITS].index(first)
                for begin, stop in pairwise((0, *stops, UPDATES)):
                    world_size = [*SPLITS][turn % len(SPLITS)]
                    own = others[turn % len(others)]
                    rows, cursor = take(own, resume(cursor), world_size, stop - begin)
                    taken, turn = taken + rows, turn + 1
                assert taken == whole, (stops, first)
                assert cursor == end
                runs += 1
    assert runs == 3 * (1 + 5 + 10 + 10)

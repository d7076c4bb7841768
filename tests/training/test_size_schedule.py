"""Batches and sequences whose size changes by schedule: counted, resumed, and equal everywhere."""

import numpy as np
import pytest

from hermes.data import Cursor, TextDataset, TokenStream
from hermes.data.tracing import RunTrace
from hermes.errors import DataError, HermesError
from hermes.recipe import Recipe
from hermes.size_schedule import find_size, parse_size_schedule
from hermes.training.batch_reader import split_sequences
from hermes.training.events import Position
from hermes.training.metrics_file import read_metrics
from hermes.training.run_yaml import read_setting
from hermes.training.schedule import count_samples_before, count_step_samples, count_steps
from tests.training.support import Runs, corpus_in, losses, tensors

GROWS = {"batch_size_schedule": "0:2,3:4,5:6", "batch_size": None, "max_steps": 7}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return corpus_in(tmp_path_factory.mktemp("corpus"))


def go(corpus, folder, name, **options):
    given = {**GROWS, **options}
    if given["batch_size"] is None:
        given["batch_size"] = int(given["batch_size_schedule"][2])
    return Runs(corpus, folder)(name, **given)


def same_tensors(one, other):
    return all(
        (a[name] == b[name]).all()
        for a, b in zip(tensors(one), tensors(other), strict=True)
        for name in a
    )


def test_sizes_are_those_from_their_step_on():
    changes = parse_size_schedule("batch_size_schedule", "2:8, 5:16")
    assert changes == ((2, 8), (5, 16))
    assert [find_size(changes, step, 4) for step in range(7)] == [4, 4, 8, 8, 8, 16, 16]
    assert parse_size_schedule("batch_size_schedule", "") == ()


@pytest.mark.parametrize("text", ["8", "0:8,", "0:0", "5:8,2:4", "2:8,2:9", "a:8", "0:-8"])
def test_other_schedules_are_refused(text):
    with pytest.raises(HermesError, match="batch_size_schedule"):
        Recipe(batch_size_schedule=text)


def test_steps_are_counted_by_their_samples():
    recipe = Recipe(batch_size_schedule="0:2,3:4,5:6", grad_accum=2, seq_len=10)
    assert recipe.batch_size == 2
    # Of 2 processes: 8 samples in each of 3 steps, 16 in each of 2, 24 in each after that.
    assert [count_samples_before(recipe, step, 2) for step in range(8)] == [
        *(0, 8, 16, 24, 40, 56, 80, 104)
    ]
    for samples, steps in ((8, 1), (9, 2), (24, 3), (25, 4), (56, 5), (57, 6), (104, 7)):
        tokens = Recipe(**{**vars(recipe), "train_tokens": samples * 10})
        assert count_steps(tokens, Position(), 999, 2) == steps
        assert count_steps(recipe, Position(), samples, 2) == steps
    done = Position(4, 0, Cursor(0, 40))
    assert count_steps(recipe, done, 57, 2) == 6
    assert count_step_samples(recipe, Cursor(0, 40), 57, 2, step=4) == 16
    assert count_step_samples(recipe, Cursor(0, 56), 57, 2, step=5) == 1


def test_a_split_batch_has_the_windows_of_shorter_sequences():
    stream = TokenStream.from_ids(np.arange(200) % 97)
    long = TextDataset(stream, seq_len=16, vocab_size=100, seed=3)
    short = TextDataset(stream, seq_len=4, vocab_size=100, seed=3)
    batch, _ = long.draw_batch(Cursor(), samples=4, micro_batch=2, accum=2)
    parts = split_sequences(batch, 4)
    assert parts.tokens.shape == parts.targets.shape == (2, 8, 4)
    assert parts.rows.tolist() == [[*range(8)], [*range(8, 16)]]
    assert parts.counts == batch.counts
    every = {tuple(window) for window in short.read_windows(np.arange(len(short.train))).tolist()}
    for tokens, targets in zip(parts.tokens[0].tolist(), parts.targets[0].tolist(), strict=True):
        assert (*tokens, targets[-1]) in every
        assert tokens[1:] == targets[:-1]


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_growing_batch_is_runs_of_constant_batches_one_after_the_other(corpus, tmp_path, backend):
    """Bit for bit, stopped and resumed in between as well."""
    go(corpus, tmp_path, "grows", backend=backend)
    for size, until in ((2, 3), (4, 5), (6, 7)):
        Runs(corpus, tmp_path)("steps", backend=backend, batch_size=size, max_steps=7,
                               resume=True, allow_batch_change=True,
                               stop_at=until if until < 7 else None)  # fmt: skip
    assert losses(tmp_path / "grows") == losses(tmp_path / "steps")
    last = "step-00000007"
    assert same_tensors(tmp_path / "grows" / last, tmp_path / "steps" / last)
    go(corpus, tmp_path, "parts", backend=backend, stop_at=4)
    assert max(losses(tmp_path / "parts")) < 7
    Runs(corpus, tmp_path)("parts", backend=backend, resume=True, max_steps=7, batch_size=2)
    assert losses(tmp_path / "parts") == losses(tmp_path / "grows")
    assert read_setting(tmp_path / "parts", "batch_size_schedule") == "0:2,3:4,5:6"


def test_both_backends_make_the_same_run_of_sizes_that_grow(corpus, tmp_path):
    """Two lengths as well; one backend takes over from the other."""
    sizes = {"seq_len_schedule": "0:4,2:8,4:16"}
    for backend in ("torch", "mlx"):
        go(corpus, tmp_path, backend, backend=backend, **sizes)
    ours, theirs = losses(tmp_path / "torch"), losses(tmp_path / "mlx")
    assert ours == pytest.approx(theirs, abs=1e-4)
    go(corpus, tmp_path, "over", backend="torch", stop_at=3, **sizes)
    Runs(corpus, tmp_path)("over", backend="mlx", resume=True, max_steps=7, batch_size=2)
    assert losses(tmp_path / "over") == pytest.approx(theirs, abs=1e-4)
    tokens = {r["step"]: r["tokens"] for r in read_metrics(tmp_path / "mlx") if "loss" in r}
    assert list(tokens.values()) == [32, 64, 96, 160, 224, 320, 416]  # of sequences of 16


def test_shorter_sequences_are_another_run_than_whole_ones(corpus, tmp_path):
    go(corpus, tmp_path, "long", batch_size_schedule="0:4", batch_size=4, max_steps=2)
    go(corpus, tmp_path, "short", batch_size_schedule="0:4", batch_size=4, max_steps=2,
       seq_len_schedule="0:4")  # fmt: skip
    assert losses(tmp_path / "long")[1] != losses(tmp_path / "short")[1]


def test_the_trace_knows_the_sizes(corpus, tmp_path):
    go(corpus, tmp_path, "run")
    trace = RunTrace(tmp_path / "run")
    assert [len(trace.list_windows(step)) for step in range(1, 8)] == [2, 2, 2, 4, 4, 6, 6]
    sessions = [trace.find_session(step) for step in range(1, 8)]
    taken = [session.list_samples(step) for step, session in enumerate(sessions, 1)]
    assert [one.start for one in taken[1:]] == [one.stop for one in taken[:-1]]


def test_what_contradicts_a_schedule_is_refused(corpus, tmp_path):
    runs = Runs(corpus, tmp_path)
    with pytest.raises(HermesError, match="batch_size is 4, and batch_size_schedule begins with"):
        runs("run", batch_size_schedule="0:2,3:4")
    with pytest.raises(HermesError, match="seq_len_schedule has 5, which does not divide seq_len"):
        runs("run", seq_len_schedule="0:5")
    with pytest.raises(DataError, match="pack=False gives each document a sequence of its own"):
        runs("run", seq_len_schedule="0:4", pack=False)
    with pytest.raises(HermesError, match="auto_batch=True chooses one batch size"):
        runs("run", batch_size_schedule="3:8", auto_batch=True)
    path = str(corpus[0])
    data = {"a": {"files": path, "weight": 0.5}, "b": {"files": path, "weight": 0.5},
            "schedule": {"5": {"a": 0.9, "b": 0.1}}}  # fmt: skip
    with pytest.raises(DataError, match="batch_size_schedule changes it: leave one of them out"):
        runs("run", data=data, batch_size_schedule="3:8")
    assert not (tmp_path / "run").exists()

"""Going on with a run: to the bit, on the other backend, split otherwise; and what is refused."""

import numpy as np
import pytest

from hermes.checkpoint import Disk, Saver, list_steps
from hermes.errors import CheckpointError, HermesError, StorageError
from hermes.interface import IGNORE
from hermes.tokenizer import train_tokenizer
from hermes.training.metrics_file import read_metrics
from hermes.training.run_yaml import list_handovers
from tests.scenarios.handover import Handover
from tests.training.support import SPEC, losses, tensors
from tests.waiting import wait_until

BACKENDS = ("torch", "mlx")


@pytest.mark.parametrize("backend", BACKENDS)
def test_stopping_and_going_on_changes_no_bit(go, tmp_path, backend):
    """Weights, moments, losses and dropout of 5 + 3 + 4 updates are those of 12."""
    go("whole", backend=backend)
    first = go("parts", backend=backend, stop_at=5)
    assert (first.finished, first.steps) == (False, 5)
    second = go("parts", backend=backend, stop_at=8, resume=True)
    assert (second.finished, second.steps) == (False, 8)
    last = go("parts", backend=backend, resume=True)
    assert (last.finished, last.steps) == (True, 12)
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    for here, there in zip(
        tensors(tmp_path / "parts/step-00000012"),
        tensors(tmp_path / "whole/step-00000012"),
        strict=True,
    ):
        for name in there:
            np.testing.assert_array_equal(here[name], there[name], err_msg=name)


@pytest.mark.parametrize(("first", "second"), [("torch", "mlx"), ("mlx", "torch")])
def test_a_run_goes_on_on_the_other_backend(go, tmp_path, first, second):
    go("whole", backend=first)
    go("parts", backend=first, stop_at=6)
    go("parts", backend=second, resume=True)
    whole, parts = losses(tmp_path / "whole"), losses(tmp_path / "parts")
    assert sorted(parts) == list(range(1, 13))
    for step, loss in whole.items():
        assert parts[step] == pytest.approx(loss, abs=1e-5)
    for here, there in zip(
        tensors(tmp_path / "parts/step-00000012"),
        tensors(tmp_path / "whole/step-00000012"),
        strict=True,
    ):
        for name in there:
            np.testing.assert_allclose(here[name], there[name], atol=1e-4, err_msg=name)
    assert list_handovers(tmp_path / "parts") == [(6, f"{first} -> {second}")]


def test_a_split_of_the_batch_is_the_same_update(go, tmp_path):
    """The loss is the mean over all targets of a step, not the mean of its parts' means."""
    go("one", batch_size=6, spec=SPEC, val_fraction=0)
    go("three", batch_size=2, grad_accum=3, spec=SPEC, val_fraction=0)
    one, three = losses(tmp_path / "one"), losses(tmp_path / "three")
    for step in one:
        assert three[step] == pytest.approx(one[step], abs=2e-5)


def test_a_finished_run_has_nothing_left_to_do(go, tmp_path):
    go()
    before = (tmp_path / "run/metrics.jsonl").read_bytes()
    events = []
    again = go(resume=True, report=events.append)
    assert (events, again.finished, again.steps) == ([], True, 12)
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == before


def test_a_finished_run_goes_on_to_a_later_end(go, tmp_path):
    go(schedule="constant")
    go(schedule="constant", max_steps=15, resume=True)
    assert sorted(losses(tmp_path / "run")) == list(range(1, 16))


def test_an_end_that_was_stopped_before_its_evaluation_is_evaluated(go, tmp_path):
    go(stop_at=12)
    assert not any("val_loss" in r for r in read_metrics(tmp_path / "run"))
    result = go(resume=True)
    assert result.val_loss is not None
    assert [r["step"] for r in read_metrics(tmp_path / "run") if "val_loss" in r] == [12]


def test_nothing_to_resume_starts_fresh(go):
    assert go(resume=True).steps == 12


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lr": 1e-3}, "lr is 0.003 in {0} and 0.001 here"),
        ({"seed": 6}, "seed is 5 in {0} and 6 here"),
        ({"seq_len": 8}, "seq_len is 16 in {0} and 8 here"),
        ({"schedule": "wsd"}, "schedule is 'cosine' in {0} and 'wsd' here"),
        ({"val_fraction": 0.1}, "val_fraction is 0.05 in {0} and 0.1 here"),
        (
            {"batch_size": 8},
            "a step takes 4 sequences in {0} (batch_size 4 x grad_accum 1) and 8 here (8 x 1)",
        ),
        (
            {"spec": SPEC.replace("num_layers: 2", "num_layers: 3")},
            "checkpoint {0} was written for another model: num_layers 2 there, 3 here; "
            "leave model out to resume it, or give another output",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_run_does_not_go_on_as_another_one(go, tmp_path, change, message):
    go(max_steps=2)
    with pytest.raises(HermesError) as error:
        go(max_steps=4, resume=True, **change)
    assert str(error.value).startswith(message.format(tmp_path / "run/step-00000002"))


def test_a_run_may_change_how_it_is_carried_out(go, tmp_path):
    go(max_steps=2)
    changes = {"batch_size": 2, "grad_accum": 2, "save_every": 3, "eval_every": 1, "log_every": 2}
    assert go(max_steps=4, resume=True, **changes).steps == 4


def test_a_run_does_not_go_on_with_another_tokenizer(go):
    go(max_steps=2)
    other = train_tokenizer(["the cat sat on the mat " * 30], vocab_size=270)
    with pytest.raises(HermesError, match=r"the run's tokenizer has 290 tokens .* 270 and"):
        go(max_steps=4, resume=True, tokenizer=other)


@pytest.fixture
def rows(monkeypatch):
    """The token rows of every update, in order, as they are taken."""
    from hermes.training.batch_reader import BatchReader

    drawn, plain = [], BatchReader.draw

    def draw(self, cursor, samples):
        batch, after = plain(self, cursor, samples)
        drawn.extend(batch.tokens[batch.targets[..., 0] != IGNORE].tolist())
        return batch, after

    monkeypatch.setattr(BatchReader, "draw", draw)
    return drawn


@pytest.mark.parametrize("backend", BACKENDS)
def test_another_split_takes_the_same_samples_and_makes_the_same_update(go, rows, backend):
    """4 x 1, and 2 x 2, 1 x 4 and 4 x 1 after one another, into a second epoch of 63 updates."""
    options = {"backend": backend, "precision": "float64", "max_steps": 66}
    go("whole", **options)
    whole = rows.copy()
    rows.clear()
    for stop, batch, accum in ((20, 2, 2), (64, 1, 4), (None, 4, 1)):
        go("parts", **options, stop_at=stop, resume=True, batch_size=batch, grad_accum=accum)
    assert rows == whole
    one, other = losses(go.folder / "whole"), losses(go.folder / "parts")
    assert one.keys() == other.keys()
    assert max(abs(one[step] - other[step]) for step in one) <= 1e-11


BATCH = {"batch_size": 6, "allow_batch_change": True, "resume": True}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_larger_batch_goes_on_with_the_next_sample(go, rows, backend):
    """The same samples in the same order, into a second epoch; the last update may be short."""
    options = {"backend": backend, "max_steps": 0, "epochs": 1.1, "schedule": "constant"}
    steps_of_four = go("whole", **options).steps
    whole = rows.copy()
    rows.clear()
    go("larger", **options, stop_at=40)
    ended = go("larger", **options | BATCH)
    assert rows == whole
    assert ended.steps == 40 + -(-(len(whole) - 160) // 6) < steps_of_four
    assert go("larger", **options | BATCH).steps == ended.steps


def test_another_batch_is_refused_with_both_numbers_and_what_it_changes(go):
    options = {"max_steps": 0, "epochs": 1}
    go(**options, stop_at=5)
    with pytest.raises(HermesError) as error:
        go(**options, batch_size=6, resume=True)
    assert str(error.value) == (
        f"a step takes 4 sequences in {go.folder / 'run/step-00000005'} (batch_size 4 x "
        "grad_accum 1) and 6 here (6 x 1); keep the product, or pass allow_batch_change=True: from "
        "step 6 on a step takes 6 sequences instead of 4, at learning rates that are not "
        "scaled; the run ends at step 44, where it would have ended at 64; the rest of its cosine "
        "schedule changes with that"
    )


def test_a_run_whose_checkpoints_are_all_damaged_is_not_begun_anew(go):
    go(max_steps=2)
    weights = go.folder / "run/step-00000002/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    record = (go.folder / "run/metrics.jsonl").read_bytes()
    with pytest.raises(
        CheckpointError, match=r"has no whole checkpoint to resume from: .* is torn"
    ):
        go(max_steps=4, resume=True)
    assert (go.folder / "run/metrics.jsonl").read_bytes() == record


def test_the_best_checkpoint_stays(go):
    """A rate so high that the loss goes up and down."""
    keep = {"keep_last": 1, "keep_best": "val_loss"}
    go(**keep, save_every=1, eval_every=1, lr=1.0, warmup_steps=0, schedule="constant")
    found = [r for r in read_metrics(go.folder / "run") if "val_loss" in r and r["step"] < 12]
    best = min(found, key=lambda line: line["val_loss"])["step"]
    assert {step for step, _ in list_steps(go.folder / "run")} == {best, 12}


@pytest.mark.parametrize(
    ("metric", "options", "message"),
    [
        ("val_los", {}, "keep_best: there is no metric 'val_los'; did you mean 'val_loss'?"),
        ("val_loss", {"val_fraction": 0},
         "keep_best val_loss needs sequences held out: val_fraction or val_data"),
        ("val_loss", {}, "keep_best val_loss needs evaluations on the way: eval_every"),
    ],
)  # fmt: skip
def test_a_metric_that_no_checkpoint_would_have_is_refused(go, metric, options, message):
    with pytest.raises(HermesError) as error:
        go(keep_best=metric, **options)
    assert str(error.value) == message
    assert not (go.folder / "run").exists()


@pytest.mark.long
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize(
    ("precision", "loss", "weight"), [("float32", 1e-5, 1e-4), ("float64", 1e-11, 1e-11)]
)
def test_a_hundred_updates_on_each_backend_are_two_hundred_on_either(
    tmp_path, precision, loss, weight, dropout
):
    runs = Handover(tmp_path, precision, dropout)
    for first, second in (BACKENDS, BACKENDS[::-1]):
        apart = runs.apart(first, second)
        assert apart.loss <= loss
        assert apart.weight <= weight


def test_a_save_that_fails_stops_the_run_at_the_next_line_with_its_cause(go, monkeypatch):
    """And not at the next save, which may be hours away."""
    savers, save = [], Saver.save

    def remember(self, *given, **more):
        savers.append(self)
        return save(self, *given, **more)

    def has_failed():
        return savers and (savers[0]._pending is None or savers[0]._pending.done())

    def refuse(self, path):
        raise StorageError(f"cannot make folder {path}: disk quota exceeded")

    monkeypatch.setattr(Saver, "save", remember)
    monkeypatch.setattr(Disk, "make_folder", refuse)
    with pytest.raises(StorageError, match="disk quota exceeded"):
        go(save_every=5, max_steps=4_000, 
           report=lambda event: event.step < 6 or wait_until(has_failed))  # fmt: skip
    assert max(losses(go.folder / "run")) < 10

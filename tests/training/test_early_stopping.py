"""A run ends where its validation loss falls no longer, and the best weights are saved."""

import dataclasses

import pytest

from hermes.errors import HermesError
from hermes.training.early_stopping import EarlyStopping
from hermes.training.events import Evaluation, StoppedEarly


def test_it_waits_for_a_fall_of_more_than_min_delta():
    stopping = EarlyStopping(patience=2, min_delta=0.1)
    for step, loss in enumerate((3.0, 2.95, 2.8, 2.75), start=1):
        stopping.add(step, loss)
        assert not stopping.exhausted
        assert stopping.should_save(step) is (step in (1, 3))
    stopping.add(5, 2.7)
    assert (stopping.exhausted, stopping.best, stopping.best_step) == (True, 2.8, 3)
    assert stopping.should_save(5)


def test_without_patience_it_never_ends_a_run():
    stopping = EarlyStopping()
    stopping.add_all([{"step": step, "val_loss": 9.0} for step in range(99)], until=99)
    assert not stopping.exhausted
    assert not stopping.should_save(0)


@pytest.mark.parametrize(
    "wrong", [{"patience": -1}, {"min_delta": -0.1}, {"min_delta": float("nan")}]
)
def test_what_is_no_patience_is_refused(wrong):
    with pytest.raises(HermesError, match="must be at least 0"):
        EarlyStopping(**wrong)


@pytest.mark.parametrize("backend", ["torch", "mlx"])
def test_a_run_ends_early_saved_and_a_resumed_one_at_the_same_step(go, backend, tmp_path):
    # At this rate the loss of the little model soon goes up and down.
    options = {"lr": 0.3, "schedule": "constant", "eval_every": 1, "patience": 2, "max_steps": 40,
               "backend": backend}  # fmt: skip
    seen = []
    whole = go("whole", report=seen.append, **options)
    (end,) = [event for event in seen if isinstance(event, StoppedEarly)]
    assert whole.finished
    assert whole.steps == end.step < 40
    losses = {event.step: event.val_loss for event in seen if isinstance(event, Evaluation)}
    assert losses[end.best_step] == end.best == min(losses.values())
    assert {f"step-{step:08}" for step in (end.best_step, end.step)} <= {
        path.name for path in (tmp_path / "whole").iterdir()
    }
    go("parts", stop_at=end.step - 1, **options)
    resumed = go("parts", resume=True, **options)
    assert dataclasses.replace(resumed, output=whole.output, checkpoint=whole.checkpoint,
                               notes=whole.notes) == whole  # fmt: skip
    again = go("parts", resume=True, **options)
    assert again.finished
    assert again.steps == end.step


def test_evaluations_of_nothing_are_said(go):
    said = "--eval-every 2 has no effect: it needs sequences held out: --val-fraction or --val-data"
    assert said in go(val_fraction=0.0, eval_every=2, max_steps=2).notes
    assert said in go(val_fraction=0.0, eval_every=2, max_steps=3, resume=True).notes
    assert said not in go("other", eval_every=2, max_steps=2).notes


@pytest.mark.parametrize(
    ("options", "missing"),
    [
        ({"val_fraction": 0.0}, "sequences held out: val_fraction or val_data$"),
        ({}, "evaluations on the way: eval_every$"),
    ],
)
def test_patience_without_evaluations_is_refused(go, options, missing):
    with pytest.raises(HermesError, match=f"^patience needs {missing}"):
        go("run", patience=2, eval_every=0 if not options else 1, max_steps=2, **options)

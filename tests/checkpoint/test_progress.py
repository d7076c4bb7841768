"""Progress: written, read, and brought up from older formats."""

import json

import pytest

from hermes.checkpoint.progress import read_progress, render_progress
from hermes.errors import CheckpointError, HermesError
from tests.checkpoint.support import progress_at


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: p.update(steps=1), "has the unknown key 'steps'"),
        (lambda p: p.pop("run"), "lacks 'run'"),
        (lambda p: p.update(step="1"), "step must be int, got '1'"),
        (lambda p: p.update(step=True), "step must be int, got True"),
        (lambda p: p.update(metrics=[]), "metrics must be Mapping, got []"),
        (lambda p: p.update(metrics={"a": "b"}), "metrics: a must be float, got 'b'"),
        (lambda p: p["recipe"].update(lr=-1.0), "lr must be above 0, got -1.0"),
        (lambda p: p["recipe"].update(speed=1), "recipe has the unknown key 'speed'"),
        (lambda p: p["recipe"].update(optimizer=5), "optimizer must be an object, got 5"),
    ],
)
def test_progress_that_does_not_fit_is_refused(change, reason):
    value = json.loads(render_progress(progress_at(1)))
    change(value)
    with pytest.raises(CheckpointError) as caught:
        read_progress(json.dumps(value).encode(), "progress.json")
    assert reason in str(caught.value)


def test_progress_survives_writing_and_reading():
    progress = progress_at(3, metrics={"val_loss": 0.1 + 0.2}, versions={"torch": "2"}, epoch=1)
    assert read_progress(render_progress(progress), "p") == progress


def test_a_metric_that_is_no_number_is_not_saved():
    with pytest.raises(HermesError, match="step 3: val_loss is nan, so it was not saved"):
        render_progress(progress_at(3, metrics={"val_loss": float("nan")}))


def test_progress_of_an_older_format_is_brought_up(monkeypatch):
    """Each version's step is taken in turn, up to the one of today."""
    monkeypatch.setattr("hermes.checkpoint.progress.VERSION", 3)
    old = json.loads(render_progress(progress_at(5)))
    old["steps_made"] = old.pop("step")

    def first(value):
        return {k: v for k, v in value.items() if k != "steps_made"} | {"made": value["steps_made"]}

    def second(value):
        return {k: v for k, v in value.items() if k != "made"} | {"step": value["made"]}

    data = json.dumps(old).encode()
    assert read_progress(data, "p", 1, {1: first, 2: second}) == progress_at(5)

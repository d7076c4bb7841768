"""A run in TensorBoard: the numbers of metrics.jsonl, also where it was resumed."""

import pytest

from hermes.errors import HermesError
from hermes.tracking.registry import find_trackers, list_trackers
from hermes.training.metrics_file import read_metrics
from tests.training.support import Runs, corpus_in


@pytest.fixture
def go(tmp_path):
    return Runs(corpus_in(tmp_path), tmp_path)


def read_scalars(run, tag):
    reading = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = reading.EventAccumulator(str(run / "tensorboard")).Reload()
    return {event.step: event.value for event in events.Scalars(tag)}, events


def test_a_resumed_run_continues_the_curves_of_the_first(go, tmp_path):
    options = {"track": "tensorboard", "eval_every": 2, "max_steps": 8, "save_every": 2,
               "sample_every": 4, "sample_tokens": 3, "sample_prompt": "the cat"}  # fmt: skip
    go(stop_at=5, **options)
    # As after a kill: what was logged after the last checkpoint is computed again.
    newest = max((tmp_path / "run").glob("step-*"))
    for file in newest.iterdir():
        file.unlink()
    newest.rmdir()
    go(resume=True, **options)
    records = read_metrics(tmp_path / "run")
    losses, events = read_scalars(tmp_path / "run", "train/loss")
    assert losses == pytest.approx({r["step"]: r["loss"] for r in records if "loss" in r})
    assert sorted(losses) == list(range(1, 9))
    validation, _ = read_scalars(tmp_path / "run", "val/loss")
    assert validation == pytest.approx(
        {r["step"]: r["val_loss"] for r in records if "val_loss" in r}
    )
    shown = [event.tensor_proto.string_val[0].decode() for event in events.Tensors("sample/0")]
    assert len(shown) == 2
    assert all(text.startswith("the cat") for text in shown)
    settings = events.Tensors("settings")[0].tensor_proto.string_val[0].decode()
    assert "    lr: 0.003" in settings
    assert "    parameters: " in settings


def test_an_unknown_tracker_is_refused_with_what_there_is():
    with pytest.raises(HermesError, match="no tracker 'tensorbord'; did you mean 'tensorboard'"):
        find_trackers(["tensorbord"])
    assert set(list_trackers()) >= {"tensorboard", "wandb", "mlflow", "trackio"}
    assert [*find_trackers([])] == []

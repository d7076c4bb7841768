"""Trackers as they are installed: what they hold of a run that was stopped and resumed."""

import json

import pytest

from hermes.training.metrics_file import read_metrics
from tests.training.support import Runs, corpus_in

OPTIONS = {"eval_every": 3, "max_steps": 8, "sample_every": 4, "sample_tokens": 3}


@pytest.fixture
def run_in(tmp_path, monkeypatch):
    """Trains with a tracker, stops after five steps, resumes; returns the run's folder and id."""
    go = Runs(corpus_in(tmp_path), tmp_path)

    def train(tracker):
        go(stop_at=5, track=tracker, **OPTIONS)
        go(resume=True, track=tracker, **OPTIONS)
        run = tmp_path / "run"
        newest = max(run.glob("step-*"))
        return run, json.loads((newest / "progress.json").read_text())["run"]

    return train


def pick(records, key):
    return [(r["step"], pytest.approx(r[key])) for r in records if key in r]


def test_mlflow(run_in, tmp_path, monkeypatch):
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    run, _ = run_in("mlflow")
    assert not list(elsewhere.iterdir())  # texts are beside the database, in the run's folder
    texts = sorted(path.name for path in (run / "mlartifacts").rglob("*.txt"))
    assert texts == ["step-00000004.txt", "step-00000008.txt"]
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run / 'mlflow.db'}")
    (found,) = client.search_runs([client.get_experiment_by_name("hermes").experiment_id])
    assert found.info.status == "FINISHED"
    assert found.data.params["lr"] == "0.003"
    for curve, key in (("train/loss", "loss"), ("val/loss", "val_loss")):
        history = client.get_metric_history(found.info.run_id, curve)
        assert [(m.step, m.value) for m in history] == pick(read_metrics(run), key)


def test_trackio(run_in, tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    run, number = run_in("trackio")
    logs = SQLiteStorage.get_logs("hermes", f"run-{number[:6]}")
    for curve, key in (("train/loss", "loss"), ("val/loss", "val_loss")):
        told = [(line["step"], line[curve]) for line in logs if curve in line]
        assert told == pick(read_metrics(run), key)


def read_log(data):
    """The records of a .wandb file: LevelDB's log format behind a header of seven bytes."""
    block, head, parts = 32768, 7, []
    at = head
    while at + head <= len(data):
        if block - at % block < head:  # the rest of a block that has no room for a header
            at += block - at % block
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts.append(data[at + head : at + head + length])
        at += head + length
        if kind in (1, 4):  # a whole record, or its last part
            yield b"".join(parts)
            parts = []


def test_weights_and_biases_offline(run_in, monkeypatch):
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_MODE", "offline")
    run, number = run_in("wandb")
    told = {}
    for file in sorted(run.glob("wandb/offline-run-*/*.wandb")):
        assert file.stem == f"run-{number}"
        for data in read_log(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            values = {
                item.key or "/".join(item.nested_key): item.value_json
                for item in record.history.item
            }
            if "train/loss" in values:
                told[int(values["_step"])] = float(values["train/loss"])
    assert sorted(told.items()) == pick(read_metrics(run), "loss")

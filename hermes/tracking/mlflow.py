"""MLflow, at MLFLOW_TRACKING_URI, else in OUTPUT/mlflow.db."""

import os
import time
from collections.abc import Mapping
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from hermes.tracking.tracker import TrackedRun

__all__ = ["MlflowTracker"]

OWN_TAG = "hermes.run"
LONGEST = 6000  # characters of a parameter that MLflow takes
MANY = 100  # parameters that MLflow takes in one request


class MlflowTracker:
    """A run of MLflow, which a resumed run finds again by a tag with hermes's own id."""

    rewinds = False

    def __init__(self, run: TrackedRun):
        uri, texts = os.environ.get("MLFLOW_TRACKING_URI"), None
        if not uri:
            uri = f"sqlite:///{run.folder / 'mlflow.db'}"
            # Else MLflow puts them into ./mlruns of whatever folder the run is started in.
            texts = (run.folder / "mlartifacts").absolute().as_uri()
        self._client: Any = MlflowClient(tracking_uri=uri)
        experiment = self._client.get_experiment_by_name(run.project)
        number = (
            experiment.experiment_id
            if experiment
            else self._client.create_experiment(run.project, artifact_location=texts)
        )
        found = self._client.search_runs([number], f"tags.`{OWN_TAG}` = '{run.id}'", max_results=1)
        if found:
            self._run = found[0].info.run_id
            self._client.update_run(self._run, status="RUNNING")
            return
        made = self._client.create_run(number, tags={OWN_TAG: run.id}, run_name=run.name)
        self._run = made.info.run_id
        params = [Param(name, str(value)[:LONGEST]) for name, value in run.settings.items()]
        for start in range(0, len(params), MANY):
            self._client.log_batch(self._run, params=params[start : start + MANY])

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers of a step."""
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, value in values.items()]
        self._client.log_batch(self._run, metrics=metrics)

    def log_text(self, step: int, name: str, text: str) -> None:
        """Log a text as an artifact."""
        self._client.log_text(self._run, text, f"{name}/step-{step:08}.txt")

    def finish(self, finished: bool) -> None:
        """Mark the run as finished or as stopped."""
        self._client.set_terminated(self._run, "FINISHED" if finished else "KILLED")

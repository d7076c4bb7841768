"""Weights & Biases, online or offline as WANDB_MODE and `wandb login` say."""

from collections.abc import Mapping
from typing import Any

import wandb

from hermes.tracking.tracker import TrackedRun

__all__ = ["WandbTracker"]


class WandbTracker:
    """A run of Weights & Biases with the id of hermes's own, so that a resumed one continues it."""

    rewinds = False

    def __init__(self, run: TrackedRun):
        self._run: Any = wandb.init(
            project=run.project,
            id=run.id,
            name=run.name,
            dir=str(run.folder),
            config=dict(run.settings),
            resume="allow",
            reinit="create_new",
            settings=wandb.Settings(silent=True, console="off"),
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers of a step."""
        self._run.log(dict(values), step=step)

    def log_text(self, step: int, name: str, text: str) -> None:
        """Log a text."""
        self._run.log({name: wandb.Html(_to_html(text))}, step=step)

    def finish(self, finished: bool) -> None:
        """Upload what is left; a run that did not come to its end is marked so."""
        self._run.finish(exit_code=0 if finished else 1)


def _to_html(text: str) -> str:
    escaped = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return f"<pre style='white-space: pre-wrap'>{escaped}</pre>"

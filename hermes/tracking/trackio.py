"""Trackio: a local dashboard, `trackio show`, or a Space of the Hub as TRACKIO_SPACE_ID says."""

import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from typing import Any

import trackio

from hermes.tracking.tracker import TrackedRun

__all__ = ["TrackioTracker"]


class TrackioTracker:
    """A run of Trackio, whose name ends in hermes's own id, so that a resumed one continues it."""

    rewinds = False

    def __init__(self, run: TrackedRun):
        # Trackio prints to standard output, which may be what a program of ours writes to a file.
        with redirect_stdout(sys.stderr):
            self._run: Any = trackio.init(
                project=run.project,
                name=f"{run.name}-{run.id[:6]}",
                resume="allow",
                config=dict(run.settings),
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the numbers of a step."""
        self._run.log(dict(values), step=step)

    def log_text(self, step: int, name: str, text: str) -> None:
        """Log a text, shown as Markdown."""
        self._run.log({name: trackio.Markdown(f"```\n{text}\n```")}, step=step)

    def finish(self, finished: bool) -> None:
        """Upload what is left."""
        with redirect_stdout(sys.stderr):
            self._run.finish()

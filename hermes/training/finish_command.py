"""A command that runs when a run ends, however it ends, such as one that hands back a machine."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Self

from hermes.errors import Interrupted

__all__ = ["FinishCommand"]


class FinishCommand:
    """A block around a run, at whose end the shell runs `command`, also after an error.

    The command finds in its environment HERMES_RUN, the run's folder; HERMES_STATUS, "finished",
    "stopped" or "failed"; and HERMES_ERROR, the error's line. If it fails itself, that is a
    warning. Without a command the block does nothing. tell: given lines for the user.
    """

    def __init__(self, command: str, run: str | Path, tell: Callable[[str], None]):
        self._command, self._run, self._tell = command, Path(run), tell

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not self._command:
            return
        stopped = isinstance(error, Interrupted | KeyboardInterrupt | SystemExit)
        status = "finished" if error is None else "stopped" if stopped else "failed"
        told = {
            "HERMES_RUN": str(self._run.absolute()),
            "HERMES_STATUS": status,
            "HERMES_ERROR": str(error or ""),
        }
        ended = "failed" if status == "failed" else f"is {status}"
        self._tell(f"the run {ended}; running --on-finish: {self._command}")
        done = subprocess.run(
            self._command, shell=True, env=os.environ | told, stdin=subprocess.DEVNULL
        )
        if done.returncode:
            self._tell(f"Warning: --on-finish ended with {done.returncode}")

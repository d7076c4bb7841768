"""A command that runs when a run ends, however it ends, such as one that hands back a machine."""

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Self

from hermes.errors import Interrupted, describe_error

__all__ = ["FinishCommand"]

LONGEST_ERROR = 10_000  # characters


class FinishCommand:
    """A block around a run, at whose end the shell runs `command`, also after an error.

    The command finds in its environment HERMES_RUN, the run's folder; HERMES_STATUS, "finished",
    "stopped" or "failed"; and HERMES_ERROR, the error's line. If it fails itself, that is a
    warning. Without a command the block does nothing. tell: given lines for the user. on_begin:
    called at the block's end before the command is started.
    """

    def __init__(
        self,
        command: str,
        run: str | Path,
        tell: Callable[[str], None],
        on_begin: Callable[[], None] = lambda: None,
    ):
        self._command, self._run, self._tell = command, Path(run), tell
        self._on_begin = on_begin
        self._begun, self._ended = threading.Lock(), threading.Event()

    def change(self, command: str, run: str | Path, tell: Callable[[str], None]) -> None:
        """Take what is known of the run by now, unless the command has begun."""
        if not self._begun.locked():
            self._command, self._run, self._tell = command, Path(run), tell

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if not self._command:
            return
        self._on_begin()
        if not self._begun.acquire(blocking=False):
            self._ended.wait()
            return
        stopped = isinstance(error, Interrupted | KeyboardInterrupt | SystemExit)
        status = "finished" if error is None else "stopped" if stopped else "failed"
        self._call(status, str(error or ""), self._tell)

    def run_stopped(self, tell: Callable[[str], None]) -> None:
        """Run the command from another thread, for a run that is about to be ended in mid-call.

        Does nothing where it has begun. tell: given lines for the user.
        """
        if self._command and self._begun.acquire(blocking=False):
            self._call("stopped", "interrupted", tell)

    def _call(self, status: str, error: str, tell: Callable[[str], None]) -> None:
        told = {
            "HERMES_RUN": str(self._run.absolute()),
            "HERMES_STATUS": status,
            "HERMES_ERROR": _make_variable(error),
        }
        ended = "failed" if status == "failed" else f"is {status}"
        tell(f"the run {ended}; running --on-finish: {self._command}")
        try:
            done = subprocess.run(
                self._command, shell=True, env=os.environ | told, stdin=subprocess.DEVNULL
            )
        except (OSError, ValueError) as failure:  # the run's own error is to be seen, not this
            tell(f"Warning: --on-finish could not be started: {describe_error(failure)}")
            return
        finally:
            self._ended.set()
        if done.returncode:
            tell(f"Warning: --on-finish ended with {done.returncode}")


def _make_variable(text: str) -> str:
    """The text as an environment has it: without NUL and halves of surrogate pairs, and not long.

    Linux starts no program with a variable of 128 KB.
    """
    return text.replace("\0", " ").encode(errors="replace").decode()[:LONGEST_ERROR]

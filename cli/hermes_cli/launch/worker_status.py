"""What workers report to their launcher: one file per worker, one line of JSON per fact.

A worker that is killed leaves no lock behind, and at worst half a line, which is not read. Room for
the reports is taken at the start, so that a disk that fills meanwhile silences nobody.
"""

import json
import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hermes_cli.launch.signals import INTERRUPTED

__all__ = ["StatusFile", "WorkerStatus", "read_statuses"]


@dataclass(frozen=True)
class WorkerStatus:
    """What a worker has reported.

    code: its exit code, None while it has not ended. joined: whether it found the other ranks.
    """

    rank: int
    attempt: int
    pid: int
    lines: tuple[str, ...] = ()
    code: int | None = None
    joined: bool = False


# Zero bytes that a worker's file begins with, over which it writes.
ROOM = 16_384


class StatusFile:
    """The file that a worker reports to. Raises OSError where there is no room for it."""

    def __init__(self, folder: str, rank: int, attempt: int):
        path = Path(folder, f"{attempt:06}-{rank:06}.jsonl")
        self._file = path.open("wb", buffering=0)
        self._file.write(bytes(ROOM))
        self._end, self._lock = 0, threading.Lock()  # two threads may report
        self._write({"rank": rank, "attempt": attempt, "pid": os.getpid()})

    def write_line(self, line: str) -> None:
        """Report a line for the user."""
        self._write({"line": line})

    def write_exit_code(self, code: int) -> None:
        """Report the exit code."""
        self._write({"code": code})

    def write_joined(self) -> None:
        """Report that the other ranks are found."""
        self._write({"joined": True})

    def write_interrupted(self, line: str) -> None:
        """Report a line, and that a signal ends the process."""
        self.write_line(line)
        self.write_exit_code(INTERRUPTED)

    def _write(self, fact: dict[str, object]) -> None:
        line = json.dumps(fact).encode("ascii") + b"\n"
        # Beyond the room, on a full disk: the launcher still sees how the process ends.
        with self._lock, suppress(OSError):
            self._end += os.pwrite(self._file.fileno(), line, self._end)


def read_statuses(folder: str) -> list[WorkerStatus]:
    """What all workers have reported so far, by attempt and rank."""
    return [told for path in sorted(Path(folder).glob("*.jsonl")) if (told := _read(path))]


def _read(path: Path) -> WorkerStatus | None:
    written = path.read_bytes().partition(b"\0")[0].decode("ascii")
    whole = written.rpartition("\n")[0]
    if not whole:
        return None
    first, *facts = (json.loads(line) for line in whole.split("\n"))
    lines = tuple(fact["line"] for fact in facts if "line" in fact)
    code = next((fact["code"] for fact in facts if "code" in fact), None)
    joined = any("joined" in fact for fact in facts)
    return WorkerStatus(first["rank"], first["attempt"], first["pid"], lines, code, joined)

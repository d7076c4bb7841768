"""OUTPUT/metrics.jsonl: a line per logged step and per evaluation, for other programs to read.

Lines are in the order of their steps. They are flushed before a checkpoint commits, and a resumed
run cuts the lines after its checkpoint, so that the file has neither gaps nor repeats.
"""

import json
from collections.abc import Mapping
from pathlib import Path

from hermes.errors import DataError
from hermes.storage.durable import AppendOnlyFile

__all__ = ["MetricsFile", "read_metrics"]

NAME = "metrics.jsonl"


class MetricsFile:
    """The metrics of one run, open for appending."""

    def __init__(self, run: Path, *, after: int = 0):
        """Open OUTPUT/metrics.jsonl, cut to the lines of steps up to `after`.

        Only what was flushed is sure to be there after a crash; what follows the last flush may be
        torn, lies after the last checkpoint, and is cut too.
        """

        def keep_line(line: bytes) -> bool:
            record = _parse(line)
            return record is not None and record.get("step", 0) <= after

        self._file = AppendOnlyFile(run / NAME, keep_line)

    def write(self, record: Mapping[str, float]) -> None:
        """Append one line, for whoever watches the file; every value must be finite."""
        line = json.dumps(dict(record), allow_nan=False, separators=(", ", ": "))
        self._file.append(line.encode())

    def flush(self) -> None:
        """Bring every line so far to the disk."""
        self._file.sync()

    def __enter__(self) -> "MetricsFile":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()


def _parse(line: bytes) -> dict[str, float] | None:
    try:
        record = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def read_metrics(run: Path) -> list[dict[str, float]]:
    """Every line of a run's metrics.jsonl, oldest first; a torn last one is left out."""
    path = run / NAME
    if not path.is_file():
        raise DataError(f"{run}: no {NAME} here; give a folder that hermes train wrote")
    records = []
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines, start=1):
        record = _parse(line)
        if record is not None:
            records.append(record)
        elif number < len(lines):
            shown = line[:60].decode(errors="replace").rstrip()
            raise DataError(f"{path}:{number}: expected a JSON object, found {shown!r}")
    return records

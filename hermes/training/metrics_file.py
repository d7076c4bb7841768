"""OUTPUT/metrics.jsonl: a line per logged step and per evaluation, for other programs to read.

Lines are in the order of their steps. They are flushed before a checkpoint commits, and a resumed
run cuts the lines after its checkpoint, so that the file has neither gaps nor repeats.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hermes.errors import DataError
from hermes.storage.append_only import AppendOnlyFile
from hermes.storage.durable import write_atomically
from hermes.storage.path_kinds import RUN, describe_kind
from hermes.storage.plain_json import load_json

__all__ = [
    "MetricsFile",
    "find_odd_lines",
    "parse_line",
    "read_last_step",
    "read_losses",
    "read_metrics",
]

NAME = "metrics.jsonl"
ODD = "metrics-odd.jsonl"
TAIL = 1 << 16  # bytes at the end of the file, in which its last lines are


class MetricsFile:
    """The metrics of one run, open for appending."""

    def __init__(self, run: Path, *, after: int = 0):
        """Open OUTPUT/metrics.jsonl, cut to the lines of steps up to `after`.

        Only what was flushed is sure to be there after a crash; what follows the last flush may be
        torn, lies after the last checkpoint, and is cut too. Lines that are no metrics, as an
        editor may leave them, are moved to OUTPUT/metrics-odd.jsonl.
        """
        if odd := find_odd_lines(run):
            _set_aside(run, odd)
        self._run = run
        self._open(after)

    def _open(self, after: int) -> None:
        def keep_line(line: bytes) -> bool:
            record = parse_line(line)
            return record is not None and record["step"] <= after

        self._file = AppendOnlyFile(self._run / NAME, keep_line)

    def cut(self, after: int) -> None:
        """Drop the lines of steps beyond `after`."""
        self._file.close()
        self._open(after)

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


def parse_line(line: bytes) -> dict[str, float] | None:
    """A line's record; None for one that is torn, or no object of numbers with a whole step."""
    try:
        record = load_json(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    return record if all(map(_is_number, record.values())) else None


def _is_number(value: Any) -> bool:
    """Whether it is a number that a float holds."""
    try:
        return type(value) in (int, float) and math.isfinite(value)
    except OverflowError:
        return False


def _read_lines(run: Path) -> list[bytes]:
    path = run / NAME
    # Of bytes, split at line ends alone: a form feed is part of a line.
    return path.read_bytes().splitlines(keepends=True) if path.is_file() else []


def find_odd_lines(run: Path) -> list[int]:
    """The numbers of the lines of a run's metrics.jsonl that are no metrics, from 1.

    A last line without its end is torn, not odd.
    """
    return [
        number
        for number, line in enumerate(_read_lines(run), start=1)
        if line.endswith(b"\n") and parse_line(line) is None
    ]


def _set_aside(run: Path, odd: Sequence[int]) -> None:
    """Move lines to metrics-odd.jsonl, which keeps those of earlier times. Raises StorageError."""
    lines, aside = _read_lines(run), run / ODD
    earlier = aside.read_bytes() if aside.is_file() else b""
    write_atomically(aside, earlier + b"".join(lines[number - 1] for number in odd))
    numbers = frozenset(odd)
    kept = [line for number, line in enumerate(lines, start=1) if number not in numbers]
    write_atomically(run / NAME, b"".join(kept))


def read_metrics(run: Path, *, skip_odd: bool = False) -> list[dict[str, float]]:
    """Every line of a run's metrics.jsonl, oldest first; a torn last one is left out.

    skip_odd: leave out lines that are no metrics. Raises DataError, for them too.
    """
    path = run / NAME
    if not path.is_file():
        kind = describe_kind(run)
        what = f"{run}: no {NAME} here" if kind in ("", RUN) else f"{run} is {kind}"
        raise DataError(f"{what}; give a folder that hermes train wrote")
    records = []
    lines = _read_lines(run)
    for number, line in enumerate(lines, start=1):
        record = parse_line(line)
        if record is not None:
            records.append(record)
        elif not skip_odd and (number < len(lines) or line.endswith(b"\n")):
            shown = line[:60].decode(errors="replace").rstrip()
            raise DataError(
                f"{path}:{number}: expected a JSON object of numbers with a whole 'step', found "
                f"{shown!r}; remove the line, or resume the run, which sets it aside"
            )
    return records


def read_losses(run: Path, until: int) -> list[float]:
    """The training losses that a run's metrics.jsonl has of steps up to `until`, oldest first."""
    records = map(parse_line, _read_lines(run))
    return [one["loss"] for one in records if one and "loss" in one and one["step"] <= until]


def read_last_step(run: Path) -> int:
    """The last step that a run's metrics.jsonl has, read from its end; 0 where it has none."""
    path = run / NAME
    if not path.is_file():
        return 0
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL))
        records = map(parse_line, file.read().splitlines(keepends=True))
    return max((int(record["step"]) for record in records if record is not None), default=0)

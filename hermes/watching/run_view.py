"""What a run's folder says of it to a page that follows it; nothing is written there."""

import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes.checkpoint import list_steps, open_checkpoint
from hermes.errors import HermesError
from hermes.storage.path_kinds import CHECKPOINT, HF_MODEL, PREPARED, describe_kind, say_kind
from hermes.storage.plain_json import load_json
from hermes.storage.reading import read_small
from hermes.storage.strict_yaml import read_value_mapping
from hermes.training.early_stopping import EarlyStopping
from hermes.training.metrics_file import NAME as METRICS
from hermes.training.metrics_file import parse_line, read_metrics
from hermes.training.run_yaml import FACTS, list_handovers
from hermes.training.run_yaml import NAME as RUN
from hermes.training.samples import read_samples

__all__ = ["MetricsPart", "RunView", "find_runs"]

PART = 2_000_000  # bytes of metrics in one answer
QUIET = 300.0  # seconds without a line of metrics, after which a run elsewhere counts as stopped


@dataclass(frozen=True)
class MetricsPart:
    """Lines of a run's metrics from byte `start` on, and where the next part starts.

    restarted: the file is shorter than `start`, since a resumed run cut it; lines are from its
    beginning then.
    """

    lines: list[dict[str, Any]]
    next: int
    restarted: bool = False


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Find the runs: each folder that is one, and those that lie directly in one that is none.

    Raises HermesError where there is no such folder.
    """
    runs = []
    for folder in folders:
        if not folder.is_dir():
            raise HermesError(f"{folder}: no such folder; give a run, or a folder of runs")
        if describe_kind(folder) in (CHECKPOINT, HF_MODEL, PREPARED):
            raise HermesError(f"{say_kind(folder)}; give a run, or a folder of runs")
        inside = () if _is_run(folder) else sorted(folder.iterdir())
        runs += [folder, *(one for one in inside if one.is_dir() and _is_run(one))]
    return [run for run in dict.fromkeys(runs) if _is_run(run)]


def _is_run(folder: Path) -> bool:
    return (folder / RUN).is_file()


@dataclass(frozen=True)
class RunView:
    """A run as it is on disk now."""

    folder: Path

    def describe(self) -> dict[str, Any]:
        """Its name, state, steps, settings, hand-overs and checkpoints."""
        settings, sessions = self._read_settings()
        saved = [step for step, _ in list_steps(self.folder)]
        total = self._find_total_steps(settings)
        if saved and total is not None and saved[0] >= total:
            state = "finished"
        elif self._is_training():
            state = "training"
        else:
            state = "stopped early" if self._is_out_of_patience(settings) else "stopped"
        return {
            "name": self.folder.absolute().name,
            "folder": str(self.folder.absolute()),
            "state": state,
            "total_steps": total,
            "checkpoints": sorted(saved),
            "settings": settings,
            "sessions": sessions,
            "handovers": [{"step": step, "text": text} for step, text in self._find_handovers()],
        }

    def _read_settings(self) -> tuple[dict[str, Any], list[Any]]:
        try:
            whole = dict(read_value_mapping(self.folder / RUN))
        except (HermesError, OSError):  # it is being replaced, or was damaged
            return {}, []
        sessions = whole.get("sessions") or []
        listed = sessions if isinstance(sessions, list) else []
        return {k: v for k, v in whole.items() if k not in FACTS}, listed

    def _find_handovers(self) -> Sequence[tuple[float, str]]:
        try:
            return list_handovers(self.folder)
        except (HermesError, OSError):
            return ()

    def _find_total_steps(self, settings: dict[str, Any]) -> int | None:
        """As the newest checkpoint has it, else as the settings say; None where neither does."""
        for _, path in list_steps(self.folder):
            try:
                return open_checkpoint(path, hashes=False).progress.total_steps
            except (HermesError, OSError):
                continue
        return settings.get("max_steps") or None

    def _is_out_of_patience(self, settings: dict[str, Any]) -> bool:
        """Whether the run's evaluations end it by --patience."""
        try:
            stopping = EarlyStopping(settings.get("patience") or 0, settings.get("min_delta") or 0)
            if stopping.patience:
                lines = read_metrics(self.folder, skip_odd=True)
                stopping.add_all(lines, max((int(line["step"]) for line in lines), default=0))
        except (HermesError, OSError, TypeError, ValueError):  # a damaged run
            return False
        return stopping.exhausted

    def _is_training(self) -> bool:
        """Whether the process that last locked the folder is alive; its lock is not touched.

        Of a process on another machine it is known only that it writes.
        """
        try:
            holder = load_json(read_small(self.folder / ".lock"))
            if holder["host"] == socket.gethostname():
                os.kill(int(holder["process"]), 0)
                return True
            return time.time() - (self.folder / METRICS).stat().st_mtime < QUIET
        except PermissionError:  # another user's
            return True
        except (HermesError, OSError, ValueError, LookupError, TypeError, OverflowError):
            return False

    def read_metrics(self, start: int) -> MetricsPart:
        """The next lines of its metrics, at most PART bytes; torn and odd ones are passed over.

        A line longer than that is odd, and passed over in parts.
        """
        path = self.folder / METRICS
        size = path.stat().st_size if path.is_file() else 0
        restarted = start > size
        start = 0 if restarted else start
        if size <= start:
            return MetricsPart([], start, restarted)
        with open(path, "rb") as file:
            file.seek(start)
            data = file.read(PART)
        whole = data[: data.rfind(b"\n") + 1]
        if not whole and len(data) == PART:
            whole = data
        found = map(parse_line, whole.splitlines(keepends=True))
        lines: list[dict[str, Any]] = [one for one in found if one is not None]
        return MetricsPart(lines, start + len(whole), restarted)

    def read_samples(self) -> list[dict[str, Any]]:
        """The sample text that it has made."""
        return read_samples(self.folder)

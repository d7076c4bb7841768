"""The precision of a run: chosen for the device that it starts on, and kept when it is resumed."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from hermes.checkpoint import list_steps, open_checkpoint
from hermes.errors import CheckpointError
from hermes.interface import Backend
from hermes.model_info.devices import AUTO, choose_precision, describe_device, describe_float32
from hermes.training.request import RunRequest
from hermes.training.run_yaml import read_setting

__all__ = ["choose_run_precision", "describe_precision"]


def choose_run_precision(values: Mapping[str, Any], backend: Backend) -> str:
    """The precision of a run, by its arguments; "auto" is the run's own where it is resumed.

    Of a new run it is the device's. Raises HermesError for a precision that does not exist.
    """
    precision = str(values["precision"])
    if precision == AUTO and values["resume"]:
        precision = _read_recorded(Path(values["output"])) or AUTO
    return choose_precision(precision, backend, values["device"])


def _read_recorded(output: Path) -> str | None:
    """What run.yaml says of the last session, else the newest checkpoint; None without either."""
    found = read_setting(output, "precision")
    if found not in (None, AUTO):
        return str(found)
    for _, path in list_steps(output):
        with suppress(CheckpointError):  # a damaged one is passed over, and said, when it is opened
            return open_checkpoint(path, hashes=False).progress.precision
    return None


def describe_precision(request: RunRequest) -> tuple[str, ...]:
    """What to tell the user about a run's precision."""
    device = describe_device(request.backend, request.options.device)
    told = describe_float32(request.options.precision, device)
    return () if told is None else (told,)

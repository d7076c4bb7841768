"""The trackers by name: hermes's own, and those that other packages register."""

from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import entry_points
from typing import cast

from hermes.errors import HermesError, suggest_nearest
from hermes.tracking.tracker import MakeTracker

__all__ = ["find_trackers", "list_trackers"]

# Of each its module and class, and the extra that installs its package.
OWN = {
    "tensorboard": ("hermes.tracking.tensorboard", "TensorBoardTracker", "tensorboard"),
    "wandb": ("hermes.tracking.wandb", "WandbTracker", "wandb"),
    "mlflow": ("hermes.tracking.mlflow", "MlflowTracker", "mlflow"),
    "trackio": ("hermes.tracking.trackio", "TrackioTracker", "trackio"),
}
GROUP = "hermes.trackers"  # of entry points


def list_trackers() -> list[str]:
    """List the names of all trackers, whether their package is installed or not."""
    return sorted({*OWN, *(point.name for point in entry_points(group=GROUP))})


def find_trackers(names: Sequence[str]) -> dict[str, MakeTracker]:
    """Load trackers by name; a name may be a list, 'tensorboard,wandb'.

    Raises HermesError for an unknown name, and for one whose package is not installed.
    """
    wanted = [part.strip() for name in names for part in name.split(",") if part.strip()]
    return {name: _find_tracker(name) for name in dict.fromkeys(wanted)}


def _find_tracker(name: str) -> MakeTracker:
    if name in OWN:
        module, attribute, extra = OWN[name]
        try:
            return cast(MakeTracker, getattr(import_module(module), attribute))
        except ImportError as error:
            raise HermesError(
                f"--track {name}: its package is not installed ({error}); "
                f"pip install 'hermes-llm[{extra}]'"
            ) from error
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        known = list_trackers()
        hint = suggest_nearest(name, known) or f"; known are {', '.join(known)}"
        raise HermesError(f"--track: there is no tracker {name!r}{hint}")
    try:
        return cast(MakeTracker, points[name].load())
    except ImportError as error:
        raise HermesError(f"--track {name}: it cannot be loaded ({error})") from error

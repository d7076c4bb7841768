"""progress.json: how far a run is, and its recipe."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from hermes.checkpoint.manifest import VERSION
from hermes.errors import CheckpointError, HermesError, NonFinite
from hermes.interface import LossScale
from hermes.recipe import Recipe
from hermes.storage.strict_json import Json, parse_json, render_json
from hermes.storage.typed_json import build_typed

__all__ = ["MIGRATIONS", "Progress", "read_progress", "render_progress"]

# For each old format version, a function that turns its progress.json into the next version's.
# Version 1 is the first, so there are none yet.
MIGRATIONS: Mapping[int, Callable[[dict[str, Json]], dict[str, Json]]] = {}


@dataclass(frozen=True)
class Progress:
    """All that resuming a run needs besides its tensors.

    run: an id made when the run began. step: optimizer steps made; tokens: targets trained on in
    them; (epoch, sample): the next sample; total_steps: where the run ends, 0 if unknown.
    world_size: processes; times the recipe's batch_size and grad_accum, the samples of one step.
    metrics: the latest ones by name. recent_losses: the last ones, where spikes are looked for, and
    else not in the file. data: fingerprint of the training data. backend, device, precision and
    versions record what wrote it; a run may be resumed with others. loss_scale: the state's, which
    is written with it. gradient_noise: the averages of `hermes.numerics.gradient_noise`, where they
    are kept, and else not in the file.
    """

    run: str
    step: int
    recipe: Recipe
    tokens: int = 0
    epoch: int = 0
    sample: int = 0
    total_steps: int = 0
    world_size: int = 1
    metrics: Mapping[str, float] = field(default_factory=dict)
    data: str = ""
    backend: str = ""
    device: str = ""
    precision: str = "float32"
    versions: Mapping[str, str] = field(default_factory=dict)
    loss_scale: LossScale | None = None
    recent_losses: tuple[float, ...] = ()
    gradient_noise: tuple[float, ...] = ()


def render_progress(progress: Progress) -> bytes:
    """Render progress.json. Raises NonFinite where a metric is not finite."""
    for name, value in progress.metrics.items():
        if not math.isfinite(value):
            raise NonFinite(f"step {progress.step}: {name} is {float(value)}, so it was not saved")
    metrics = {name: float(value) for name, value in progress.metrics.items()}
    plain = dataclasses.asdict(dataclasses.replace(progress, metrics={}, versions={}))
    for name in ("recent_losses", "gradient_noise"):
        if not plain[name]:
            del plain[name]
    return render_json(plain | {"metrics": metrics, "versions": dict(progress.versions)})


def read_progress(
    data: bytes,
    where: str,
    version: int = VERSION,
    migrations: Mapping[int, Callable[[dict[str, Json]], dict[str, Json]]] = MIGRATIONS,
) -> Progress:
    """Parse progress.json of any format version up to this one.

    A missing key takes its default; an unknown key is refused. Raises CheckpointError.
    """
    value = parse_json(data, where)
    for old in range(version, VERSION):
        value = migrations[old](value)
    try:
        progress = build_typed(Progress, value, where)
    except CheckpointError:
        raise
    except HermesError as error:
        raise CheckpointError(f"{where}: {error}") from error
    assert isinstance(progress, Progress), "built from that class"
    return progress

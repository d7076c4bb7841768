"""progress.json: where a run is and how it trains, in plain numbers and words."""

import dataclasses
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Union, get_args, get_origin, get_type_hints

from hermes.checkpoint.manifest import VERSION
from hermes.errors import CheckpointError, HermesError, NonFinite
from hermes.recipe import Recipe
from hermes.storage.strict_json import Json, parse_json, render_json

__all__ = ["MIGRATIONS", "Progress", "read_progress", "render_progress"]

# From a format version to the next: what is said of a run in the older one, said in the newer.
# Version 1 is the first, so nothing needs it yet.
MIGRATIONS: Mapping[int, Callable[[dict[str, Json]], dict[str, Json]]] = {}


@dataclass(frozen=True)
class Progress:
    """All that a run needs, beside its tensors, to go on.

    run: an id made when it began. step: updates made; tokens: targets counted in them; (epoch,
    sample): the next sample; total_steps: where it ends. world_size: processes, which with the
    recipe's batch_size and grad_accum makes the samples of one update. metrics: the latest by
    name; data: fingerprint of the training data. backend, device, precision and versions say who
    wrote it and bind no one.
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


def render_progress(progress: Progress) -> bytes:
    """The bytes of progress.json. Raises NonFinite where a metric is no number."""
    for name, value in progress.metrics.items():
        if not math.isfinite(value):
            raise NonFinite(f"step {progress.step}: {name} is {float(value)}, so it was not saved")
    metrics = {name: float(value) for name, value in progress.metrics.items()}
    plain = dataclasses.asdict(dataclasses.replace(progress, metrics={}, versions={}))
    return render_json(plain | {"metrics": metrics, "versions": dict(progress.versions)})


def read_progress(
    data: bytes,
    where: str,
    version: int = VERSION,
    migrations: Mapping[int, Callable[[dict[str, Json]], dict[str, Json]]] = MIGRATIONS,
) -> Progress:
    """Progress from the bytes of progress.json, brought up from an older `version` of the format.

    A key left out takes its default; one that is not known is refused. Raises CheckpointError.
    """
    value = parse_json(data, where)
    for old in range(version, VERSION):
        value = migrations[old](value)
    try:
        progress = _build(Progress, value, where)
    except CheckpointError:
        raise
    except HermesError as error:
        raise CheckpointError(f"{where}: {error}") from error
    assert isinstance(progress, Progress), "built from that class"
    return progress


def _build(wanted: Any, value: Json, where: str) -> Any:
    """The value as the type of a dataclass's field, with int to float and list to tuple at most."""
    if dataclasses.is_dataclass(wanted):
        assert isinstance(wanted, type), "annotations name classes"
        return _build_dataclass(wanted, value, where)
    arguments = get_args(wanted)
    if get_origin(wanted) in (Union, types.UnionType) and len(arguments) == 2:
        inner = next(a for a in arguments if a is not types.NoneType)
        return None if value is None else _build(inner, value, where)
    if get_origin(wanted) in (Mapping, dict):
        if isinstance(value, dict):
            return {key: _build(arguments[1], value[key], f"{where}: {key}") for key in value}
    elif get_origin(wanted) is tuple:
        if isinstance(value, list):
            return tuple(_build(arguments[0], item, where) for item in value)
    elif wanted is float and type(value) is int:
        return float(value)
    elif type(value) is wanted:
        return value
    name = getattr(wanted, "__name__", str(wanted))
    raise CheckpointError(f"{where} must be {name}, got {value!r}")


def _build_dataclass(wanted: type, value: Json, where: str) -> Any:
    if not isinstance(value, dict):
        raise CheckpointError(f"{where} must be an object, got {value!r}")
    hints = get_type_hints(wanted)
    needed = {
        f.name
        for f in dataclasses.fields(wanted)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }
    for key in sorted(value.keys() - hints.keys()):
        raise CheckpointError(f"{where} has the unknown key {key!r}")
    for key in sorted(needed - value.keys()):
        raise CheckpointError(f"{where} lacks {key!r}")
    return wanted(**{key: _build(hints[key], value[key], f"{where}: {key}") for key in value})

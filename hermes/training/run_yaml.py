"""OUTPUT/run.yaml: a run's options, what set each of them, and which backend trained when.

`hermes train --config run.yaml` reads it back as options.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

from hermes.errors import HermesError
from hermes.recipe import LossScaling, Recipe, flatten_recipe
from hermes.storage.durable import write_atomically
from hermes.storage.strict_yaml import read_value_mapping

__all__ = [
    "EDITS",
    "FACTS",
    "NAME",
    "PROCESSES",
    "SESSIONS",
    "Session",
    "format_scalar",
    "list_handovers",
    "read_reference_weights",
    "read_sessions",
    "read_setting",
    "write_runfile",
]

T = TypeVar("T")

NAME = "run.yaml"
REFERENCE = "reference_weights"
PROCESSES = "processes"
TRAINED = "trained"
# What stands there beside the options.
SESSIONS = "sessions"
FACTS = (SESSIONS, REFERENCE, PROCESSES, TRAINED)
# The recipe's fields that `hermes train` has options for.
OPTIONS = (
    "lr",
    "batch_size",
    "grad_accum",
    "epochs",
    "max_steps",
    "train_tokens",
    "seq_len",
    "schedule",
    "warmup_steps",
    "warmup_ratio",
    "min_lr_ratio",
    "decay_ratio",
    "decay_steps",
    "decay_shape",
    "power",
    "lr_points",
    "grad_clip",
    "optimizer.weight_decay",
    "optimizer.name",
    "optimizer.moments",
    "groups",
    "ema",
    "z_loss",
    "loss_scaling.initial",
    "seed",
    "val_fraction",
    "document_mask",
    "eval_every",
    "save_every",
    "freeze_layers",
    "freeze",
    "batch_size_schedule",
    "seq_len_schedule",
)
PREFERENCE = ("loss", "beta", "label_smoothing", "gamma", "sft_weight")
# Those that have none, which `--set` changes.
EDITS = ("optimizer.beta1", "optimizer.beta2", "optimizer.eps")
# Those that only some optimizers or precisions have, written where they are not the defaults.
RARE_EDITS = (
    "optimizer.momentum",
    "optimizer.nesterov",
    "optimizer.muon_scale",
    "loss_scaling.growth",
    "loss_scaling.backoff",
    "loss_scaling.interval",
    "loss_scaling.minimum",
)
# Options whose names are not those of their fields.
NAMES = {
    "optimizer.weight_decay": "weight_decay",
    "optimizer.name": "optimizer",
    "optimizer.moments": "moments",
    "groups": "group",
    "loss_scaling.initial": "loss_scale",
    "lr_points": "lr_point",
}


@dataclass(frozen=True)
class Session:
    """A stretch of training in one process or group, which started after `step`."""

    step: int
    backend: str
    device: str
    precision: str


def format_scalar(value: object) -> str:
    """The value as a YAML scalar of the same type for every YAML reader."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        text = f"{value:g}" if float(f"{value:g}") == value else repr(value)
        # YAML 1.1 takes an exponent for a number only behind a point.
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(format_scalar, value)) + "]"
    return json.dumps(str(value))


def write_runfile(
    run: Path,
    recipe: Recipe,
    settings: Mapping[str, object],
    sources: Mapping[str, str],
    sessions: Sequence[Session],
    reference_weights: str | None = None,
    processes: int = 1,
    trained: Mapping[str, float] | None = None,
) -> None:
    """Write run.yaml, whole or not at all.

    settings: the options beside the recipe, its edits as 'set.KEY'. reference_weights: as
    `TrainingData` has it. processes: that share a step of this recipe. trained: the steps and
    epochs that were.
    """
    fields = flatten_recipe(recipe)
    own = {NAMES.get(name, name): fields[name] for name in OPTIONS}
    if not recipe.document_mask:
        del own["document_mask"]  # which sft and dpo have no option for
    if not recipe.seq_len_schedule:
        del own["seq_len_schedule"]  # nor for this
    if recipe.loss_scaling.initial == LossScaling().initial:
        del own["loss_scale"]  # which other precisions do not have
    if recipe.objective == "preference":
        own |= {name: fields[f"preference.{name}"] for name in PREFERENCE}
        own["max_len"] = own.pop("seq_len")
    edits = {k.removeprefix("set."): v for k, v in settings.items() if k.startswith("set.")}
    defaults = flatten_recipe(Recipe())
    rare = [name for name in RARE_EDITS if fields[name] != defaults[name]]
    edits |= {name: fields[name] for name in (*EDITS, *rare)}
    lines = [f"# written by hermes {version('hermes-llm')}; --config reads it"]
    for key, value in {**settings, **own}.items():
        if value is not None and not key.startswith("set."):
            source = sources.get(key)
            lines.append(f"{key}: {format_scalar(value)}" + (f"  # {source}" if source else ""))
    lines += ["set:", *(f"  {key}: {format_scalar(value)}" for key, value in edits.items())]
    lines.append(f"{PROCESSES}: {processes}  # each takes batch_size x grad_accum; not an option")
    if reference_weights is not None:
        lines.append(f"{REFERENCE}: {format_scalar(reference_weights)}  # SHA-256; not an option")
    if trained is not None:
        items = ", ".join(f"{key}: {format_scalar(value)}" for key, value in trained.items())
        lines.append(f"{TRAINED}: {{{items}}}  # when it last ended; not an option")
    lines.append("sessions:  # who trained from which step on; not an option")
    for session in sessions:
        items = ", ".join(
            f"{k}: {format_scalar(v)}" for k, v in dataclasses.asdict(session).items()
        )
        lines.append(f"  - {{{items}}}")
    write_atomically(run / NAME, ("\n".join(lines) + "\n").encode("utf-8"))


def read_sessions(run: Path) -> list[Session]:
    """The sessions of a run by its run.yaml; empty where there is none."""
    return _read_fact(run, "sessions", lambda found: [Session(**entry) for entry in found or []])


def read_reference_weights(run: Path) -> str | None:
    """SHA-256 of the reference's weights, by run.yaml; None for a run without a reference."""
    return _read_fact(run, REFERENCE, lambda found: None if found is None else str(found))


def read_setting(run: Path, name: str) -> Any:
    """The value of an option in run.yaml, None where it has none."""
    return _read_fact(run, name, lambda found: found)


def _read_fact(run: Path, name: str, read: Callable[[Any], T]) -> T:
    """The value of a key in run.yaml, None where it has none, through `read`."""
    path = run / NAME
    if not path.exists():
        return read(None)
    found = read_value_mapping(path)
    try:
        return read(found.get(name))
    except (AttributeError, TypeError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise HermesError(f"{path}: {name!r} cannot be read ({reason}); remove it") from None


def list_handovers(run: Path) -> list[tuple[int, str]]:
    """The steps after which another backend took over: (step, 'torch -> mlx')."""
    sessions = read_sessions(run)
    return [
        (after.step, f"{before.backend} -> {after.backend}")
        for before, after in pairwise(sessions)
        if before.backend != after.backend
    ]

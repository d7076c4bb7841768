"""A new run that continues a checkpoint of constant learning rate with a fall to its end.

One long run at the full rate can so be ended anywhere, more than once. Source: Haegele et al. 2024,
"Scaling laws and compute-optimal training beyond fixed training durations", arXiv:2405.18392.
"""

import math
from collections.abc import Mapping
from pathlib import Path

from hermes.checkpoint import Checkpoint, locate
from hermes.errors import HermesError
from hermes.formatting import format_count
from hermes.recipe import Recipe
from hermes.training.schedule import count_warmup_steps, find_decay_start

__all__ = ["COOLDOWN_FIELDS", "open_stable_checkpoint", "plan_cooldown"]

# Fields of the recipe in which a cool-down differs from the run that it continues.
COOLDOWN_FIELDS = (
    *("schedule", "decay_ratio", "decay_steps", "decay_shape", "min_lr_ratio"),
    *("warmup_steps", "warmup_ratio", "train_tokens"),
)


def open_stable_checkpoint(path: Path) -> Checkpoint:
    """Open a checkpoint, or a run's newest, whose next step would be at the full learning rate.

    Raises HermesError for any other.
    """
    checkpoint, _ = locate(path)
    if not checkpoint.resumable:
        raise HermesError(f"{checkpoint.path} has no optimizer state, so no run can continue it")
    progress = checkpoint.progress
    recipe, step, total = progress.recipe, progress.step, progress.total_steps
    if step < count_warmup_steps(recipe, total):
        found = "its learning rate is still rising"
    elif recipe.schedule == "wsd":
        start = find_decay_start(recipe, total)
        found = f"its learning rate falls since step {start:,}" if step > start else ""
    else:
        found = "" if recipe.schedule == "constant" else f"its schedule is {recipe.schedule}"
    if found:
        raise HermesError(
            f"{checkpoint.path} cannot be cooled down from: {found}; choose a checkpoint at the "
            "full learning rate of a constant or wsd schedule"
        )
    return checkpoint


def plan_cooldown(checkpoint: Checkpoint, given: Mapping[str, object]) -> dict[str, object]:
    """The fields of the recipe that a cool-down sets, those given included. Raises HermesError.

    Its fall takes decay_steps; or as many as max_steps leaves; or decay_ratio of all steps.
    """
    progress = checkpoint.progress
    recipe, step = progress.recipe, progress.step
    if given.get("schedule", "wsd") != "wsd":
        raise HermesError(f"schedule is {given['schedule']!r}; a cool-down's is wsd, leave it out")
    if given.get("train_tokens"):
        raise HermesError("train_tokens has no meaning in a cool-down; say --decay-steps")
    length, end = _read_count(given, "decay_steps"), _read_count(given, "max_steps")
    if end and end <= step:
        raise HermesError(f"max_steps is {end:,}, and {checkpoint.path} is of step {step:,}")
    if length and end and step + length != end:
        raise HermesError(
            f"decay_steps is {length:,} and max_steps {end:,}, but from step {step:,} that is "
            f"{format_count(end - step, 'steps')}; give one of them"
        )
    ratio = given.get("decay_ratio", recipe.decay_ratio)
    if not length and not end and not (isinstance(ratio, int | float) and 0 < ratio < 1):
        raise HermesError(f"decay_ratio is {ratio!r}; say --decay-steps, how long the fall takes")
    if not length:
        assert isinstance(ratio, int | float), "checked above"
        length = end - step if end else math.ceil(step * ratio / (1 - ratio)) or 1
    return {
        **given,
        "schedule": "wsd",
        "decay_steps": length,
        "max_steps": step + length,
        "train_tokens": 0,
        "warmup_steps": count_warmup_steps(recipe, progress.total_steps),
        "warmup_ratio": 0.0,
        "lr_points": (),
        "power": Recipe().power,
    }


def _read_count(given: Mapping[str, object], name: str) -> int:
    value = given.get(name, 0)
    return value if isinstance(value, int) else 0

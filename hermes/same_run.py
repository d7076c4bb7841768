"""What makes a run the same run: which settings may change when it goes on, and which may not.

A run may move to another backend, device, precision or split of its batch, may end later or
sooner, and may log, save and evaluate as it likes; where it is told to, its updates may take more
samples or fewer. All else would make it another run.
"""

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hermes.checkpoint import Progress
from hermes.data import Cursor, run_samples
from hermes.errors import HermesError, nearest
from hermes.loop import Position
from hermes.material import Held
from hermes.recipe import Recipe
from hermes.report.units import number_of

__all__ = [
    "among",
    "batch_change",
    "changed",
    "flat",
    "repeated",
    "require_same",
    "samples_of_update",
    "total_steps",
]

# What a field is said to be in a recipe that lacks the part it belongs to.
ABSENT = {"lora.rank": 0}
FREE = ("batch_size", "grad_accum", "epochs", "max_steps", "save_every", "eval_every")


def flat(recipe: Recipe) -> dict[str, object]:
    """Every field by name, those of a part behind its name: 'optimizer.beta2'."""
    found: dict[str, object] = {}
    for name, value in dataclasses.asdict(recipe).items():
        if isinstance(value, dict):
            found |= {f"{name}.{inner}": v for inner, v in value.items()}
        else:
            found[name] = value
    return found


def changed(recipe: Recipe, given: Mapping[str, object]) -> Recipe:
    """The recipe with some fields set, by the names of `flat`. Raises HermesError."""
    known = {**flat(recipe), **vars(recipe)}
    parts: dict[str, dict[str, object]] = {}
    own: dict[str, object] = {}
    for name, value in given.items():
        if name not in known:
            raise HermesError(f"the recipe has no {name!r}{nearest(name, known)}")
        part, _, inner = name.rpartition(".")
        if part:
            parts.setdefault(part, {})[inner] = value
        else:
            own[name] = value
    for part, values in parts.items():
        own[part] = dataclasses.replace(getattr(recipe, part), **values)
    return dataclasses.replace(recipe, **own)  # type: ignore[arg-type]  # by name, checked above


def require_same(checkpoint: Path, progress: Progress, now: Recipe, stream: Held) -> None:
    """Refuse to go on with another recipe or other data, naming both values. Raises HermesError.

    The samples of an update are `batch_change`'s matter.
    """
    before, after = flat(progress.recipe), flat(now)
    for name in before | after:
        there, here = (held.get(name, ABSENT.get(name)) for held in (before, after))
        if name not in FREE and there != here:
            raise HermesError(
                f"{name} is {there!r} in {checkpoint} and {here!r} here; leave it out to go on "
                "with the run, or choose another --output for a new one"
            )
    if progress.data and progress.data != stream.fingerprint:
        raise HermesError(
            f"the data has fingerprint {progress.data[:12]} in {checkpoint} and "
            f"{stream.fingerprint[:12]} here ({len(stream):,} tokens); go on with the data that "
            "the run began with"
        )


@dataclass(frozen=True)
class Change:
    """Updates that take another number of samples than before: as found, and what that means."""

    found: str
    meaning: str


def batch_change(
    checkpoint: Path, progress: Progress, now: Recipe, unit: str, world: int
) -> Change | None:
    """What changes where an update takes other samples than in the checkpoint; None where not.

    unit: what a sample is called. world: the processes that go on, which share an update.
    """
    was = progress.recipe
    samples = was.batch_size * was.grad_accum * progress.world_size
    wanted = now.batch_size * now.grad_accum * world
    if samples == wanted:
        return None
    there = f"batch_size {was.batch_size} x grad_accum {was.grad_accum}"
    here = f"{now.batch_size} x {now.grad_accum}"
    return Change(
        f"an update takes {number_of(samples, unit)} in {checkpoint} "
        f"({there}{_times(progress.world_size)}) and {wanted} here ({here}{_times(world)})",
        f"from step {progress.step + 1:,} on an update takes {number_of(wanted, unit)} instead of "
        f"{samples:,}, at learning rates that are not scaled",
    )


def among(recipe: Recipe, before: int, now: int) -> Recipe:
    """The recipe that takes as many samples an update among `now` processes as among `before`.

    The samples at once in a process stay. Raises HermesError where there is no such recipe.
    """
    batch, parts = recipe.batch_size, recipe.grad_accum * before
    if parts % now == 0:
        return dataclasses.replace(recipe, grad_accum=parts // now)
    samples = batch * parts
    found = f"batch_size {batch} x grad_accum {recipe.grad_accum}{_times(before)}"
    advice = f"start a number of processes that divides {samples}"
    if samples % now == 0:
        advice = f"give --batch-size and --grad-accum whose product is {samples // now}"
    raise HermesError(
        f"an update takes {samples} samples ({found}), which {now} processes cannot share in parts "
        f"of {batch}; {advice}"
    )


def _times(world: int) -> str:
    return f" x {world} processes" if world > 1 else ""


def total_steps(recipe: Recipe, position: Position, size: int, world: int = 1) -> int:
    """Updates of the whole run, where an epoch has `size` samples and `position` is done."""
    if recipe.max_steps:
        return recipe.max_steps
    per_update = recipe.batch_size * recipe.grad_accum * world
    wanted = run_samples(size, epochs=recipe.epochs, max_steps=0, per_update=per_update)
    left = max(wanted - position.cursor.drawn(size), 0)
    return position.step + math.ceil(left / per_update)


def samples_of_update(recipe: Recipe, cursor: Cursor, size: int, world: int = 1) -> int:
    """How many samples the next update takes: the last one of a run by epochs may be short."""
    per_update = recipe.batch_size * recipe.grad_accum * world
    if recipe.max_steps:
        return per_update
    wanted = run_samples(size, epochs=recipe.epochs, max_steps=0, per_update=per_update)
    return min(per_update, wanted - cursor.drawn(size))


def repeated(
    recipe: Recipe, cursor: Cursor, size: int, unit: str = "samples", world: int = 1
) -> str | None:
    """What to say where an update has more samples than the data, so that it sees some again."""
    taken = samples_of_update(recipe, cursor, size, world)
    if taken <= size:
        return None
    room = size // (recipe.grad_accum * world)
    advice = f"choose --batch-size {room} or less"
    if not room:
        advice = f"choose --batch-size and --grad-accum for at most {size:,} an update"
    return (
        f"the data has {number_of(size, unit)} and an update takes {taken:,}: every update "
        f"sees each up to {math.ceil(taken / size):,} times; {advice}"
    )

"""What makes a run the same run: which settings may change when it goes on, and which may not.

A run may move to another backend, device, precision or split of its batch, may end later or
sooner, and may log, save and evaluate as it likes; where it is told to, its updates may take more
samples or fewer. All else would make it another run.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from hermes.checkpoint import Checkpoint, Progress
from hermes.data.dataset import TokenSource
from hermes.errors import HermesError
from hermes.formatting import format_count
from hermes.recipe import Recipe, flatten_recipe
from hermes.training.request import RunRequest

__all__ = [
    "find_batch_change",
    "redistribute_batch",
    "require_same_run",
]

# What a field is said to be in a recipe that lacks the part it belongs to.
ABSENT = {"lora.rank": 0}
FREE = ("batch_size", "grad_accum", "epochs", "max_steps", "save_every", "eval_every")


def require_same_run(
    checkpoint: Path, progress: Progress, now: Recipe, stream: TokenSource
) -> None:
    """Refuse to go on with another recipe or other data, naming both values. Raises HermesError.

    The samples of an update are `find_batch_change`'s matter.
    """
    before, after = flatten_recipe(progress.recipe), flatten_recipe(now)
    for name in before | after:
        there, here = (held.get(name, ABSENT.get(name)) for held in (before, after))
        if name not in FREE and there != here:
            raise HermesError(
                f"{name} is {there!r} in {checkpoint} and {here!r} here; leave it out to resume "
                "the run, or choose another --output for a new one"
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


def find_batch_change(
    checkpoint: Path, progress: Progress, now: Recipe, unit: str, world_size: int
) -> Change | None:
    """What changes where an update takes other samples than in the checkpoint; None where not.

    unit: what a sample is called. world: the processes that go on, which share an update.
    """
    was = progress.recipe
    samples = was.batch_size * was.grad_accum * progress.world_size
    wanted = now.batch_size * now.grad_accum * world_size
    if samples == wanted:
        return None
    there = f"batch_size {was.batch_size} x grad_accum {was.grad_accum}"
    here = f"{now.batch_size} x {now.grad_accum}"
    return Change(
        f"an update takes {format_count(samples, unit)} in {checkpoint} "
        f"({there}{_times(progress.world_size)}) and {wanted} here ({here}{_times(world_size)})",
        f"from step {progress.step + 1:,} on an update takes {format_count(wanted, unit)} instead "
        f"of {samples:,}, at learning rates that are not scaled",
    )


def redistribute_batch(recipe: Recipe, before: int, now: int) -> Recipe:
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


def _times(world_size: int) -> str:
    return f" x {world_size} processes" if world_size > 1 else ""


def _split(
    request: RunRequest, progress: Progress | None, recipe: Recipe
) -> tuple[Recipe, list[str]]:
    """The recipe whose updates take as many samples among these processes as it does among others.

    With it, what to say of that. Raises HermesError where they cannot.
    """
    before, now = request.split_among, request.process_group.rank_info.world_size
    kept = request.given.keys().isdisjoint(("batch_size", "grad_accum"))
    if before is None and progress and kept and not request.allow_batch_change:
        before = progress.world_size
    if before is None or before == now:
        return recipe, []
    here = redistribute_batch(recipe, before, now)
    return here, [
        f"grad_accum is {here.grad_accum} on {now} {_processes(now)}, where it was "
        f"{recipe.grad_accum} on {before}: an update takes "
        f"{here.batch_size * here.grad_accum * now} samples as before"
    ]


def _processes(number: int) -> str:
    return "process" if number == 1 else "processes"


def _changes(
    request: RunRequest, checkpoint: Checkpoint, recipe: Recipe, unit: str, total: int
) -> list[str]:
    """What is another from here on, of what may be. Raises HermesError where it must be allowed."""
    progress, world_size = checkpoint.progress, request.process_group.rank_info.world_size
    changes = []
    batch = find_batch_change(checkpoint.path, progress, recipe, unit, world_size)
    if batch:
        changes.append(batch.meaning)
    if total != progress.total_steps and progress.step < total:
        changes.append(_length_note(recipe, progress.total_steps, total))
    if batch and not request.allow_batch_change:
        raise HermesError(
            f"{batch.found}; keep the product, or pass --allow-batch-change: {'; '.join(changes)}"
        )
    return changes


def _length_note(recipe: Recipe, before: int, now: int) -> str:
    words = f"the run ends at step {now:,}, where it would have ended at {before:,}"
    if recipe.schedule != "constant":
        words += f"; the rest of its {recipe.schedule} schedule changes with that"
    return words

"""How the samples of one step are split over ranks, and what may change of it in a resumed run."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from hermes.checkpoint import Progress
from hermes.errors import HermesError
from hermes.formatting import format_count
from hermes.recipe import Recipe

__all__ = ["BatchChange", "find_batch_change", "redistribute_batch", "split_batch"]


@dataclass(frozen=True)
class BatchChange:
    """Steps that take another number of samples than before: what was found, and what it means."""

    found: str
    meaning: str


def find_batch_change(
    checkpoint: Path, progress: Progress, recipe: Recipe, unit: str, world_size: int
) -> BatchChange | None:
    """What changes where a step takes another number of samples than in the checkpoint, or None.

    unit: what a sample is called, in the plural. world_size: of the resumed run.
    """
    was = progress.recipe
    step = progress.step
    before = was.find_batch_size(step) * was.grad_accum * progress.world_size
    now = recipe.find_batch_size(step) * recipe.grad_accum * world_size
    if before == now:
        return None
    there = f"batch_size {was.find_batch_size(step)} x grad_accum {was.grad_accum}"
    there += _format_ranks(progress.world_size)
    here = f"{recipe.find_batch_size(step)} x {recipe.grad_accum}{_format_ranks(world_size)}"
    return BatchChange(
        f"a step takes {format_count(before, unit)} in {checkpoint} "
        f"({there}) and {now} here ({here})",
        f"from step {progress.step + 1:,} on a step takes {format_count(now, unit)} instead of "
        f"{before:,}, at learning rates that are not scaled",
    )


def redistribute_batch(recipe: Recipe, before: int, now: int) -> Recipe:
    """The recipe that takes as many samples per step on `now` ranks as this one on `before`.

    batch_size stays and grad_accum changes. Raises HermesError where there is no such recipe.
    """
    batch, parts = recipe.batch_size, recipe.grad_accum * before
    if parts % now == 0:
        return dataclasses.replace(recipe, grad_accum=parts // now)
    samples = batch * parts
    found = f"batch_size {batch} x grad_accum {recipe.grad_accum}{_format_ranks(before)}"
    advice = f"start a number of processes that divides {samples}"
    if samples % now == 0:
        advice = f"give --batch-size and --grad-accum whose product is {samples // now}"
    raise HermesError(
        f"a step takes {format_count(samples, 'samples')} ({found}), which {now} processes cannot "
        f"share in parts of {batch}; {advice}"
    )


def split_batch(recipe: Recipe, before: int | None, now: int) -> tuple[Recipe, list[str]]:
    """The recipe for `now` ranks where it is meant for `before`, and what to tell the user.

    before: None where it is meant for these. Raises HermesError where it cannot be split so.
    """
    if before is None or before == now:
        return recipe, []
    here = redistribute_batch(recipe, before, now)
    return here, [
        f"grad_accum is {here.grad_accum} on {format_count(now, 'processes', 'process')}, where it "
        f"was {recipe.grad_accum} on {before}: a step takes "
        f"{_describe_samples(here, now)} samples as before"
    ]


def _describe_samples(recipe: Recipe, world_size: int) -> str:
    """The samples of a step, those of all sizes of a schedule."""
    parts = recipe.grad_accum * world_size
    return ", then ".join(str(size * parts) for _, size in recipe.list_batch_sizes())


def _format_ranks(world_size: int) -> str:
    return f" x {world_size} processes" if world_size > 1 else ""

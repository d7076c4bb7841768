"""The learning rate of each update, as a Python float: backends receive the number."""

import math

from hermes.data import Cursor, count_run_samples
from hermes.formatting import format_count
from hermes.recipe import Recipe
from hermes.training.events import Position

__all__ = ["compute_lr"]


def compute_lr(recipe: Recipe, step: int, total_steps: int) -> float:
    """The rate of update `step`, counted from 0, in a run of `total_steps`.

    Warm-up is linear, lr * (step + 1) / warmup_steps, and reaches lr with its last update. Then
    constant; or cosine, from lr to min_lr_ratio * lr at the end; or wsd (warm-up, stable, decay;
    Hu et al. 2024, arXiv:2404.06395), constant but for a linear fall over the last decay_ratio of
    the run.
    """
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / recipe.warmup_steps
    floor = recipe.lr * recipe.min_lr_ratio
    last = max(total_steps - 1, 1)
    if recipe.schedule == "cosine":
        done = (step - recipe.warmup_steps) / max(last - recipe.warmup_steps, 1)
        return floor + (recipe.lr - floor) * (1 + math.cos(math.pi * min(done, 1.0))) / 2
    if recipe.schedule == "wsd":
        start = max(total_steps - math.ceil(recipe.decay_ratio * total_steps), recipe.warmup_steps)
        if step >= start:
            done = (step - start + 1) / max(total_steps - start, 1)
            return recipe.lr + (floor - recipe.lr) * min(done, 1.0)
    return recipe.lr


def count_steps(recipe: Recipe, position: Position, size: int, world_size: int = 1) -> int:
    """Updates of the whole run, where an epoch has `size` samples and `position` is done."""
    if recipe.max_steps:
        return recipe.max_steps
    per_update = recipe.batch_size * recipe.grad_accum * world_size
    wanted = count_run_samples(size, epochs=recipe.epochs, max_steps=0, per_update=per_update)
    left = max(wanted - position.cursor.count_samples(size), 0)
    return position.step + math.ceil(left / per_update)


def samples_per_update(recipe: Recipe, cursor: Cursor, size: int, world_size: int = 1) -> int:
    """How many samples the next update takes: the last one of a run by epochs may be short."""
    per_update = recipe.batch_size * recipe.grad_accum * world_size
    if recipe.max_steps:
        return per_update
    wanted = count_run_samples(size, epochs=recipe.epochs, max_steps=0, per_update=per_update)
    return min(per_update, wanted - cursor.count_samples(size))


def warn_repeated_samples(
    recipe: Recipe, cursor: Cursor, size: int, unit: str = "samples", world_size: int = 1
) -> str | None:
    """What to say where an update has more samples than the data, so that it sees some again."""
    taken = samples_per_update(recipe, cursor, size, world_size)
    if taken <= size:
        return None
    room = size // (recipe.grad_accum * world_size)
    advice = f"choose --batch-size {room} or less"
    if not room:
        advice = f"choose --batch-size and --grad-accum for at most {size:,} an update"
    return (
        f"the data has {format_count(size, unit)} and an update takes {taken:,}: every update "
        f"sees each up to {math.ceil(taken / size):,} times; {advice}"
    )

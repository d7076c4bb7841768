"""The learning rate of each step, as a Python float, and how many steps and samples a run takes."""

import math

from hermes.data import Cursor, count_run_samples
from hermes.formatting import format_count
from hermes.recipe import Recipe
from hermes.training.events import Position

__all__ = [
    "compute_lr",
    "count_step_samples",
    "count_steps",
    "warn_long_warmup",
    "warn_repeated_samples",
]


def compute_lr(recipe: Recipe, step: int, total_steps: int) -> float:
    """The learning rate of `step`, counted from 0, in a run of `total_steps`.

    Warm-up is linear, lr * (step + 1) / warmup_steps, and reaches lr in its last step. Then the
    rate is constant; or falls as a cosine from lr to min_lr_ratio * lr at the end; or, under wsd
    (warm-up, stable, decay), is constant but for a linear fall over the last decay_ratio of the
    run. Source: Hu et al. 2024, MiniCPM, arXiv:2404.06395.
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
    """Steps of the whole run, of which `position` is done; size: samples of an epoch."""
    if recipe.max_steps:
        return recipe.max_steps
    per_update = recipe.batch_size * recipe.grad_accum * world_size
    wanted = count_run_samples(size, epochs=recipe.epochs, max_steps=0, per_update=per_update)
    left = max(wanted - position.cursor.count_samples(size), 0)
    return position.step + math.ceil(left / per_update)


def count_step_samples(recipe: Recipe, cursor: Cursor, size: int, world_size: int = 1) -> int:
    """How many samples the next step takes; the last step of a run by epochs may take fewer."""
    per_update = recipe.batch_size * recipe.grad_accum * world_size
    if recipe.max_steps:
        return per_update
    wanted = count_run_samples(size, epochs=recipe.epochs, max_steps=0, per_update=per_update)
    return min(per_update, wanted - cursor.count_samples(size))


def warn_long_warmup(recipe: Recipe, total_steps: int) -> list[str]:
    """What to tell the user where the run ends before its learning rate is reached."""
    if recipe.warmup_steps <= total_steps or total_steps < 1:
        return []
    reached = compute_lr(recipe, total_steps - 1, total_steps)
    return [
        f"--warmup-steps {recipe.warmup_steps:,} is more than the run's "
        f"{format_count(total_steps, 'steps')}: the learning rate reaches {reached:.3g} of "
        f"{recipe.lr:g}"
    ]


def warn_repeated_samples(
    recipe: Recipe, cursor: Cursor, size: int, unit: str = "samples", world_size: int = 1
) -> list[str]:
    """What to tell the user where one step takes more samples than the data has.

    size: samples of an epoch. unit: what a sample is called, in the plural.
    """
    taken = count_step_samples(recipe, cursor, size, world_size)
    if taken <= size:
        return []
    room = size // (recipe.grad_accum * world_size)
    advice = f"choose --batch-size {room} or less"
    if not room:
        advice = f"choose --batch-size and --grad-accum for at most {size:,} a step"
    return [
        f"the data has {format_count(size, unit)} and a step takes {taken:,}: every step "
        f"sees each up to {math.ceil(taken / size):,} times; {advice}"
    ]

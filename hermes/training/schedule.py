"""The learning rate of each step, as a Python float, and how many steps and samples a run takes."""

import math
from collections.abc import Sequence
from itertools import pairwise

from hermes.data import Cursor, count_run_samples
from hermes.formatting import format_count
from hermes.recipe import Recipe
from hermes.training.events import Position

__all__ = [
    "compute_lr",
    "count_planned_steps",
    "count_samples_before",
    "count_step_samples",
    "count_steps",
    "count_warmup_steps",
    "find_decay_start",
    "find_step",
    "warn_long_warmup",
    "warn_repeated_samples",
]


def compute_lr(recipe: Recipe, step: int, total_steps: int) -> float:
    """The learning rate of `step`, counted from 0, in a run of `total_steps`.

    Warm-up is linear, lr * (step + 1) / warm-up steps, and reaches lr in its last step. Then the
    rate is constant; or falls to min_lr_ratio * lr at the end, in a line, as a cosine or as a power
    of what is left; or, under wsd (warm-up, stable, decay), is constant but for a fall at the end,
    in a line or as 1 - sqrt; or lies on the lines between the given points.
    Sources of wsd: Hu et al. 2024, MiniCPM, arXiv:2404.06395; 1 - sqrt: Haegele et al. 2024,
    arXiv:2405.18392.
    """
    warmup = count_warmup_steps(recipe, total_steps)
    if step < warmup:
        return recipe.lr * (step + 1) / warmup
    floor = recipe.lr * recipe.min_lr_ratio
    last = max(total_steps - 1, 1)
    done = min((step - warmup) / max(last - warmup, 1), 1.0)
    match recipe.schedule:
        case "linear":
            return recipe.lr + (floor - recipe.lr) * done
        case "cosine":
            return floor + (recipe.lr - floor) * (1 + math.cos(math.pi * done)) / 2
        case "polynomial":
            return floor + (recipe.lr - floor) * math.pow(1 - done, recipe.power)
        case "wsd":
            return _compute_wsd_lr(recipe, step, total_steps, floor)
        case "points":
            return recipe.lr * _interpolate(recipe.parse_lr_points(total_steps), step)
    return recipe.lr


def count_warmup_steps(recipe: Recipe, total_steps: int) -> int:
    """Steps of warm-up in a run of so many."""
    if recipe.warmup_ratio:
        return math.ceil(recipe.warmup_ratio * total_steps)
    return recipe.warmup_steps


def find_decay_start(recipe: Recipe, total_steps: int) -> int:
    """The first step, from 0, at which wsd's rate falls."""
    length = recipe.decay_steps or math.ceil(recipe.decay_ratio * total_steps)
    return max(total_steps - length, count_warmup_steps(recipe, total_steps))


def _compute_wsd_lr(recipe: Recipe, step: int, total_steps: int, floor: float) -> float:
    start = find_decay_start(recipe, total_steps)
    if step < start:
        return recipe.lr
    done = min((step - start + 1) / max(total_steps - start, 1), 1.0)
    return recipe.lr + (floor - recipe.lr) * (
        math.sqrt(done) if recipe.decay_shape == "1-sqrt" else done
    )


def _interpolate(points: Sequence[tuple[float, float]], step: int) -> float:
    """The value at a step on the lines between (step, value), constant outside them."""
    for (start, before), (end, after) in pairwise(points):
        if start <= step < end:
            return before + (after - before) * (step - start) / (end - start)
    return points[0][1] if step < points[0][0] else points[-1][1]


def count_samples_before(recipe: Recipe, step: int, world_size: int) -> int:
    """Samples of a run's first `step` steps, whose batch size may change by schedule."""
    sizes = recipe.list_batch_sizes()
    ends = [*(start for start, _ in sizes[1:]), max(step, sizes[-1][0])]
    batches = sum(
        size * max(min(end, step) - start, 0)
        for (start, size), end in zip(sizes, ends, strict=True)
    )
    return batches * recipe.grad_accum * world_size


def find_step(recipe: Recipe, samples: int, world_size: int) -> int:
    """How many steps of a run, by its schedule, it takes to have seen so many samples."""
    step = taken = 0
    for start, size in recipe.list_batch_sizes():
        taken = count_samples_before(recipe, start, world_size)
        if taken >= samples and start:
            break
        step, each = start, size * recipe.grad_accum * world_size
    left = samples - count_samples_before(recipe, step, world_size)
    return step + math.ceil(left / each)


def count_planned_steps(recipe: Recipe, world_size: int) -> int:
    """Steps of the run by max_steps or train_tokens, 0 where epochs decide."""
    if recipe.train_tokens:
        return find_step(recipe, math.ceil(recipe.train_tokens / recipe.seq_len), world_size)
    return recipe.max_steps


def count_steps(recipe: Recipe, position: Position, size: int, world_size: int = 1) -> int:
    """Steps of the whole run, of which `position` is done; size: samples of an epoch."""
    if planned := count_planned_steps(recipe, world_size):
        return planned
    wanted = count_run_samples(size, epochs=recipe.epochs, max_steps=0, per_update=1)
    left = max(wanted - position.cursor.count_samples(size), 0)
    # What was taken before may differ from the schedule: fewer by other batches, more by rollbacks.
    before = count_samples_before(recipe, position.step, world_size)
    return max(find_step(recipe, before + left, world_size), position.step)


def count_step_samples(
    recipe: Recipe, cursor: Cursor, size: int, world_size: int = 1, step: int = 0
) -> int:
    """Samples of the step that follows `step` steps; a run's last by epochs may take fewer."""
    per_update = recipe.find_batch_size(step) * recipe.grad_accum * world_size
    if recipe.max_steps or recipe.train_tokens:
        return per_update
    wanted = count_run_samples(size, epochs=recipe.epochs, max_steps=0, per_update=per_update)
    return min(per_update, wanted - cursor.count_samples(size))


def warn_long_warmup(recipe: Recipe, total_steps: int) -> list[str]:
    """What to tell the user where the run ends before its learning rate is reached."""
    if recipe.warmup_ratio or recipe.warmup_steps <= total_steps or total_steps < 1:
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
    taken = count_step_samples(recipe.use_largest_batch(), cursor, size, world_size)
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

"""The learning rate of each update, as a Python float: backends receive the number."""

import math

from hermes.recipe import Recipe

__all__ = ["learning_rate"]


def learning_rate(recipe: Recipe, step: int, total_steps: int) -> float:
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

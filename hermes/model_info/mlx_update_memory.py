"""What updating all tensors takes beside what is held, with MLX on a CPU.

MLX makes weights and moments anew, tensor by tensor, each operation a whole array, and up to ten
ahead of their results. Numbers of arrays are peaks of single updates (mx.get_peak_memory), which
tests/model_info/test_mlx_update_memory.py measures again.
"""

import math
from collections.abc import Mapping

from hermes.numerics.params import Tensor
from hermes.numerics.update_rules import (
    UpdateRule,
    choose_update_rules,
    count_slot_bytes,
    list_state_shapes,
)
from hermes.optimizer_recipe import STOCHASTIC
from hermes.recipe import Recipe
from hermes.spec import ModelSpec

__all__ = ["count_mlx_update_bytes"]

UPDATED_AT_ONCE = 1 << 17  # that of hermes_mlx.optimizer
# Arrays of the weights' type that are there at once, as large as what is updated at a time.
ARRAYS: Mapping[str, Mapping[str, float]] = {
    "adamw": {"float32": 10, "bfloat16": 13, STOCHASTIC: 18, "float8": 24.5},
    "lion": {"float32": 6, "bfloat16": 7.5, STOCHASTIC: 11.5, "float8": 16},
}
ADAFACTOR_ARRAYS = 6
AVERAGE_ARRAYS = {"float32": 3, "bfloat16": 3, STOCHASTIC: 1.5, "float8": 1.5}


def count_mlx_update_bytes(
    spec: ModelSpec, recipe: Recipe, table: Mapping[str, Tensor], master: int
) -> int:
    """Count the most bytes of new weights and moments, and of what makes them, at a time.

    table: every tensor by name. master: bytes of a weight.
    """
    state = list_state_shapes(spec, recipe)
    made = most = 0
    for name, rule in choose_update_rules(spec, recipe).items():
        shape = table[name].shape
        own = master * math.prod(shape) + sum(
            count_slot_bytes(slot, shapes[name], recipe, master)
            for slot, shapes in state.items()
            if name in shapes
        )
        some = math.prod(shape)
        if rule.algorithm in ARRAYS and len(shape) == 2:
            some = min(some, max(1, UPDATED_AT_ONCE // shape[1]) * shape[1])
        beside = int(master * _count_arrays(rule, shape, recipe) * some)
        if some < math.prod(shape):
            beside = own + max(own, beside)  # the rows so far, and at the end all of them joined
        most = max(most, made + beside)
        made += own
    return most


def _count_arrays(rule: UpdateRule, shape: tuple[int, ...], recipe: Recipe) -> float:
    moments = recipe.optimizer.moments
    if rule.algorithm in ARRAYS:
        found = ARRAYS[rule.algorithm][moments]
    elif rule.algorithm == "adafactor":
        found = ADAFACTOR_ARRAYS
    else:  # products of the smaller side, squared, beside arrays of the matrix
        found = 14 + 13 * min(shape) / max(shape)
    return found + AVERAGE_ARRAYS[moments] * (recipe.ema > 0)

"""What updating a tensor takes beside what is held, while it lasts, with torch.

AdamW's fused kernel takes nothing. All else is written out in whole arrays: of a tensor's rows, as
many as are updated at a time, where a rule looks at single numbers, else of the whole tensor. The
numbers of arrays were counted with torch's profiler (tests/model_info/test_update_memory.py).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hermes.numerics.moment_format import BLOCK, count_blocks
from hermes.numerics.params import Tensor
from hermes.numerics.update_rules import UpdateRule
from hermes.optimizer_recipe import STOCHASTIC

__all__ = ["Updates", "count_update_bytes"]

# UPDATED_AT_ONCE of hermes_torch.optim, on CPUs and on other devices.
CHUNKS = (1 << 20, 1 << 24)
FLOAT32 = 4  # bytes of a number while it is rounded at random


@dataclass(frozen=True)
class Updates:
    """How the tensors of a run are updated.

    moments: their type, as OptimizerRecipe has it. ema: whether weights are averaged. master: bytes
    of a weight. split: among how many processes each tensor is. device: 'cpu', or what else.
    """

    moments: str
    ema: bool = False
    master: int = 4
    split: int = 1
    device: str = "cpu"


def count_update_bytes(
    table: Mapping[str, Tensor], rules: Mapping[str, UpdateRule], updates: Updates
) -> int:
    """Count the most bytes that one of the tensors takes. rules: of the trained ones, by name."""
    sizes = (_count_tensor(table[name].shape, rule, updates) for name, rule in rules.items())
    return max(sizes, default=0)


def _count_tensor(shape: tuple[int, ...], rule: UpdateRule, updates: Updates) -> int:
    whole = math.prod(shape)
    own = -(-whole // updates.split)
    some = min(own, max(CHUNKS[updates.device != "cpu"], shape[-1]))
    short, coded = updates.moments == "bfloat16", updates.moments == "float8"
    gathered = 0 if updates.split == 1 else 2 * whole  # the gradient and a moment
    wide = 1  # full moments that a rule keeps
    match rule.algorithm:
        case "adamw" if updates.moments == "float32" and updates.master == 4:
            arrays = 0
            wide = 0
        case "adamw":
            wide = 2
            arrays = (7 + 2 * short) * some
        case "lion":
            arrays = (5 + short) * some
        case "muon" | "normuon":
            ratio = min(shape) / max(shape)
            arrays = int((max(6 + ratio, 4 + 4 * ratio) + short) * whole) + gathered
        case _ if len(shape) > 1:
            arrays, wide = 4 * whole + gathered, 0
        case _:
            arrays = (5 + short) * whole + gathered
    size = updates.master * arrays
    if (coded or updates.moments == STOCHASTIC) and wide:
        # All of the moments in the type of the weights, and one of them on its way to fewer bits.
        padded = count_blocks(shape[-1]) * BLOCK / shape[-1]
        encoding = int(FLOAT32 * (9.25 + padded) * some) + (own if some < own else 0)
        if not coded:
            encoding = FLOAT32 * 4 * some
        size = updates.master * wide * own + max(size, encoding)
    return max(size, 3 * updates.master * some * updates.ema)

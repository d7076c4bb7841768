"""Which optimizer trains each tensor, with which numbers, and what it keeps between steps.

What an optimizer keeps is a tensor in a slot: `exp_avg` and `exp_avg_sq` as in AdamW, or one of the
shorter ones of a matrix's rows and columns. The average of the weights is in a slot, too.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache

from hermes.errors import HermesError
from hermes.numerics.lora import list_adapter_tensors, list_trainable
from hermes.numerics.moment_format import FORMATS, count_blocks
from hermes.numerics.params import Tensor, list_parameters
from hermes.optimizer_recipe import BFLOAT16_MOMENTS, STOCHASTIC
from hermes.recipe import OptimizerRecipe, ParameterGroup, Recipe
from hermes.spec import ModelSpec

__all__ = [
    "EMA",
    "MOMENT_SLOTS",
    "UpdateRule",
    "choose_update_rules",
    "compute_decay_of_squares",
    "compute_muon_scale",
    "count_slot_bytes",
    "count_state_bytes",
    "count_state_elements",
    "group_by_rule",
    "is_coded_slot",
    "is_keyed_slot",
    "is_short_slot",
    "list_keyed_moments",
    "list_state_shapes",
]

MOMENT_SLOTS = ("exp_avg", "exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col")
SHORT_SLOTS = ("exp_avg", "exp_avg_sq")  # those that may be kept in bfloat16
EMA = "ema"  # the average of the weights
# What Muon trains, by the part of the model: not embeddings, positions, the head or adapters.
HIDDEN_PARTS = ("attention", "ffn")


@dataclass(frozen=True)
class UpdateRule:
    """How a tensor is updated.

    algorithm: adamw, muon, normuon, lion or adafactor. lr_scale: multiplies the step's learning
    rate. decay: whether weight decay applies. recipe: the numbers, weight_decay that of the
    tensor's group.
    """

    algorithm: str
    lr_scale: float
    decay: bool
    recipe: OptimizerRecipe

    @property
    def weight_decay(self) -> float:
        """The weight decay that applies, 0 where none does."""
        return self.recipe.weight_decay * self.decay

    def list_slots(self, shape: tuple[int, ...]) -> Mapping[str, tuple[int, ...]]:
        """The slots of a tensor of this shape, and the shape of what is in each."""
        match self.algorithm:
            case "adamw":
                return {"exp_avg": shape, "exp_avg_sq": shape}
            case "lion" | "muon":
                return {"exp_avg": shape}
            case "normuon":
                return {"exp_avg": shape, "exp_avg_sq_row": shape[:1]}
        if len(shape) < 2:
            return {"exp_avg_sq": shape}
        return {"exp_avg_sq_row": shape[:1], "exp_avg_sq_col": shape[1:]}


@lru_cache(maxsize=16)
def choose_update_rules(spec: ModelSpec, recipe: Recipe) -> Mapping[str, UpdateRule]:
    """The rule of each trained tensor, by name. Raises HermesError.

    Refused are a group whose glob matches no trained tensor, and muon where no matrix that it would
    train is trained.
    """
    table = _list_tensors(spec, recipe)
    groups = recipe.parse_groups()
    names = list_trainable(spec, recipe)
    for group in groups:
        if not any(fnmatchcase(name, group.glob) for name in names):
            tied = spec.embeddings.tie_weights and fnmatchcase("lm_head.weight", group.glob)
            advice = (
                "the head is tied, so name 'model.embed_tokens.weight'"
                if tied
                else f"names are as {names[0]!r}"
            )
            raise HermesError(f"group {group.glob!r} matches no tensor that is trained; {advice}")
    rules = {name: _make_rule(name, table[name], groups, recipe) for name in names}
    optimizer = recipe.optimizer.name
    if optimizer in ("muon", "normuon") and all(r.algorithm == "adamw" for r in rules.values()):
        raise HermesError(
            f"optimizer {optimizer} trains the matrices inside blocks, and this run trains none of "
            "them; choose adamw"
        )
    return rules


def _list_tensors(spec: ModelSpec, recipe: Recipe) -> Mapping[str, Tensor]:
    table = list_parameters(spec)
    return {**table, **list_adapter_tensors(spec, recipe.lora)} if recipe.lora else table


def _make_rule(
    name: str, tensor: Tensor, groups: tuple[ParameterGroup, ...], recipe: Recipe
) -> UpdateRule:
    optimizer = recipe.optimizer
    algorithm = optimizer.name
    if algorithm in ("muon", "normuon"):
        hidden = tensor.part in HIDDEN_PARTS and len(tensor.shape) == 2
        algorithm = algorithm if hidden else "adamw"
    scale = 1.0
    group = next((one for one in groups if fnmatchcase(name, one.glob)), None)
    if group is not None:
        if group.lr is not None:
            scale = group.lr / recipe.lr
        if group.lr_scale is not None:
            scale = group.lr_scale
        if group.weight_decay is not None:
            optimizer = replace(optimizer, weight_decay=group.weight_decay)
    return UpdateRule(algorithm, scale, tensor.decay, optimizer)


def group_by_rule(
    names: Iterable[str], rules: Mapping[str, UpdateRule]
) -> Mapping[UpdateRule, Sequence[str]]:
    """The tensors of each rule, in the order of `names`."""
    groups: dict[UpdateRule, list[str]] = {}
    for name in names:
        groups.setdefault(rules[name], []).append(name)
    return groups


def list_state_shapes(
    spec: ModelSpec, recipe: Recipe
) -> Mapping[str, Mapping[str, tuple[int, ...]]]:
    """The shapes of what a run keeps beside its weights: slot -> tensor's name -> shape.

    Only slots in use, those of the optimizer in the order of MOMENT_SLOTS and then EMA.
    """
    table = _list_tensors(spec, recipe)
    slots: dict[str, dict[str, tuple[int, ...]]] = {slot: {} for slot in (*MOMENT_SLOTS, EMA)}
    for name, rule in choose_update_rules(spec, recipe).items():
        if recipe.ema:
            slots[EMA][name] = table[name].shape
        for slot, shape in rule.list_slots(table[name].shape).items():
            slots[slot][name] = shape
    return {slot: shapes for slot, shapes in slots.items() if shapes}


def is_short_slot(slot: str, recipe: Recipe) -> bool:
    """Whether what is in a slot is kept in bfloat16."""
    return recipe.optimizer.moments in BFLOAT16_MOMENTS and slot in SHORT_SLOTS


def is_keyed_slot(slot: str, recipe: Recipe) -> bool:
    """Whether what is in a slot is rounded at random, by a key of each step and tensor."""
    is_random = recipe.optimizer.moments == STOCHASTIC and slot in SHORT_SLOTS
    return is_random or is_coded_slot(slot, recipe)


def is_coded_slot(slot: str, recipe: Recipe) -> bool:
    """Whether what is in a slot is kept in 8 bits, as hermes.numerics.moment_format has it."""
    return recipe.optimizer.moments == "float8" and slot in FORMATS


def list_keyed_moments(
    shapes: Mapping[str, Mapping[str, tuple[int, ...]]], recipe: Recipe
) -> Sequence[tuple[str, str]]:
    """The (slot, name) of each tensor that is rounded at random. shapes: list_state_shapes."""
    keyed = [slot for slot in shapes if is_keyed_slot(slot, recipe)]
    return [(slot, name) for slot in keyed for name in shapes[slot]]


def count_state_elements(spec: ModelSpec, recipe: Recipe) -> int:
    """Count the numbers that a run keeps beside its weights."""
    slots = list_state_shapes(spec, recipe).values()
    return sum(math.prod(shape) for shapes in slots for shape in shapes.values())


def count_state_bytes(spec: ModelSpec, recipe: Recipe, size: int) -> int:
    """Count the bytes of that in memory. size: of a number that is not in a shorter type."""
    return sum(
        count_slot_bytes(slot, shape, recipe, size)
        for slot, shapes in list_state_shapes(spec, recipe).items()
        for shape in shapes.values()
    )


def count_slot_bytes(slot: str, shape: tuple[int, ...], recipe: Recipe, size: int) -> int:
    """Count the bytes of one tensor in a slot. size: as `count_state_bytes` has it."""
    elements = math.prod(shape)
    if is_coded_slot(slot, recipe):
        return elements + elements // shape[-1] * count_blocks(shape[-1])
    return (2 if is_short_slot(slot, recipe) else size) * elements


def compute_muon_scale(shape: tuple[int, ...], rule: OptimizerRecipe) -> float:
    """What an orthogonalized step of a matrix (out, in) is multiplied by.

    match_rms_adamw: 0.2 sqrt(max(out, in)), with which its rms is that of AdamW's steps (Liu et
    al. 2025, arXiv:2502.16982, section 2.2). original: sqrt(max(1, out / in)) (Jordan 2024, "Muon:
    an optimizer for hidden layers").
    """
    rows, columns = shape
    if rule.muon_scale == "original":
        return math.sqrt(max(1.0, rows / columns))
    return 0.2 * math.sqrt(max(rows, columns))


def compute_decay_of_squares(step: int) -> float:
    """Adafactor's decay of its second moments at a step counted from 1: 1 - step^-0.8, at first 0.

    Source: Shazeer and Stern 2018, arXiv:1804.04235, section 7.2.
    """
    return 1.0 - math.pow(step, -0.8)

"""LoRA adapters: their tensors and initial values, and merging them into the weights.

A matrix `PATH.weight` of shape (out, in) gets `PATH.lora_A.weight` (rank, in) and
`PATH.lora_B.weight` (out, rank): PEFT's names without its prefix. The formula is in
`hermes.recipe.Lora`; B starts at 0, so a fresh adapter leaves the model unchanged.
"""

import math
from collections.abc import Mapping

import numpy as np

from hermes.errors import HermesError
from hermes.interface import Array, LazyTensors, Tensors
from hermes.numerics.params import Tensor, list_parameters, list_unfrozen
from hermes.numerics.randomness import draw_normals
from hermes.recipe import LORA_TARGETS, Lora, Recipe
from hermes.spec import ModelSpec

__all__ = [
    "find_adapted_paths",
    "init_adapters",
    "list_adapter_tensors",
    "list_trainable",
    "merge_adapters",
]


def find_adapted_paths(spec: ModelSpec, lora: Lora) -> tuple[str, ...]:
    """Find the matrices that get an adapter, in the order of the forward pass.

    gate_proj is the feed-forward's: an attention's output gate gets no adapter. Raises HermesError
    where a target is not in the model. gate_proj, which only gated models have, may be missing; and
    so may any of all targets together, which are just every matrix.
    """
    paths = (
        name.removesuffix(".weight") for name in list_parameters(spec) if name.endswith(".weight")
    )
    found = tuple(
        path
        for path in paths
        if path.rpartition(".")[2] in lora.targets and not path.endswith(".self_attn.gate_proj")
    )
    optional = LORA_TARGETS if set(lora.targets) == set(LORA_TARGETS) else ("gate_proj",)
    for target in lora.targets:
        if not any(path.endswith(f".{target}") for path in found) and target not in optional:
            raise HermesError(f"lora.targets names {target!r}, which this model does not have")
    if not found:
        raise HermesError(f"lora.targets {lora.targets} names no matrix of this model")
    return found


def list_adapter_tensors(spec: ModelSpec, lora: Lora) -> Mapping[str, Tensor]:
    """List the adapters' tensors by name; weight decay applies to A and B. Raises HermesError."""
    table = list_parameters(spec)
    paths = find_adapted_paths(spec, lora)
    max_rank = max(min(table[f"{path}.weight"].shape) for path in paths)
    if lora.rank > max_rank:
        raise HermesError(
            f"lora.rank is {lora.rank}, and no matrix that it adapts has a rank above {max_rank}; "
            "8 is usual"
        )
    tensors = {}
    for path in paths:
        rows, columns = table[f"{path}.weight"].shape
        std = 1 / math.sqrt(3 * columns)  # that of PEFT's uniform(-1 / sqrt(in), 1 / sqrt(in))
        tensors[f"{path}.lora_A.weight"] = Tensor(
            (lora.rank, columns), "adapters", "normal", std, decay=True
        )
        tensors[f"{path}.lora_B.weight"] = Tensor(
            (rows, lora.rank), "adapters", "zeros", decay=True
        )
    return tensors


def list_trainable(spec: ModelSpec, recipe: Recipe) -> tuple[str, ...]:
    """List the tensors that a run trains: under LoRA the adapters, else all not frozen."""
    if recipe.lora is not None:
        return tuple(list_adapter_tensors(spec, recipe.lora))
    return list_unfrozen(spec, recipe.freeze_layers, recipe.freeze)


def init_adapters(spec: ModelSpec, lora: Lora, seed: int) -> Tensors:
    """Make the initial values: A normal, each from its own random stream, and B zero."""
    table = list_adapter_tensors(spec, lora)

    def make(name: str) -> Array:
        tensor = table[name]
        if tensor.init == "zeros":
            return np.zeros(tensor.shape, np.float32)
        return draw_normals(seed, f"adapters/{name}", tensor.shape, tensor.std)

    return LazyTensors(table, make)


def merge_adapters(spec: ModelSpec, params: Tensors, lora: Lora) -> Tensors:
    """Merge the adapters into the weights, W + alpha / rank B A in float64, one tensor at a time.

    params: the base model's tensors and the adapters', by name.
    """
    paths = set(find_adapted_paths(spec, lora))

    def make(name: str) -> Array:
        weight = params[name]
        path = name.removesuffix(".weight")
        if path not in paths:
            return weight
        a, b = params[f"{path}.lora_A.weight"], params[f"{path}.lora_B.weight"]
        update = lora.scale * (b.astype(np.float64) @ a.astype(np.float64))
        return (weight.astype(np.float64) + update).astype(weight.dtype)

    return LazyTensors(list_parameters(spec), make)

"""Low-rank adapters: which tensors they are, what they start from, and merging them.

For a matrix `PATH.weight` of shape (out, in): `PATH.lora_A.weight` (rank, in) and
`PATH.lora_B.weight` (out, rank), PEFT's names without its prefix. The formula is in
`hermes.recipe.Lora`; with B = 0 at first, a fresh adapter changes nothing.
"""

import math
from collections.abc import Mapping

import numpy as np

from hermes.errors import HermesError
from hermes.interface import Array, LazyTensors, Tensors
from hermes.numerics.params import Tensor, list_parameters, list_unfrozen
from hermes.numerics.randomness import draw_normals
from hermes.recipe import Lora, Recipe
from hermes.spec import ModelSpec

__all__ = [
    "find_adapted_paths",
    "init_adapters",
    "list_adapter_tensors",
    "list_trainable",
    "merge_adapters",
]


def find_adapted_paths(spec: ModelSpec, lora: Lora) -> tuple[str, ...]:
    """The matrices that get an adapter, in the order of the forward pass. Raises HermesError."""
    paths = (
        name.removesuffix(".weight") for name in list_parameters(spec) if name.endswith(".weight")
    )
    found = tuple(path for path in paths if path.rpartition(".")[2] in lora.targets)
    for target in lora.targets:
        if not any(path.endswith(f".{target}") for path in found) and target != "gate_proj":
            raise HermesError(f"lora.targets names {target!r}, which this model does not have")
    if not found:
        raise HermesError(f"lora.targets {lora.targets} names no matrix of this model")
    return found


def list_adapter_tensors(spec: ModelSpec, lora: Lora) -> Mapping[str, Tensor]:
    """Every tensor of the adapters by name; both of a pair decay. Raises HermesError."""
    table = list_parameters(spec)
    paths = find_adapted_paths(spec, lora)
    most = max(min(table[f"{path}.weight"].shape) for path in paths)
    if lora.rank > most:
        raise HermesError(
            f"lora.rank is {lora.rank}, and no matrix that it adapts has a rank above {most}; 8 is "
            "usual"
        )
    found = {}
    for path in paths:
        rows, columns = table[f"{path}.weight"].shape
        std = 1 / math.sqrt(3 * columns)  # that of PEFT's uniform(-1 / sqrt(in), 1 / sqrt(in))
        found[f"{path}.lora_A.weight"] = Tensor(
            (lora.rank, columns), "adapters", "normal", std, decay=True
        )
        found[f"{path}.lora_B.weight"] = Tensor((rows, lora.rank), "adapters", "zeros", decay=True)
    return found


def list_trainable(spec: ModelSpec, recipe: Recipe) -> tuple[str, ...]:
    """The tensors that a run changes: the adapters alone, or all that is not frozen."""
    if recipe.lora is not None:
        return tuple(list_adapter_tensors(spec, recipe.lora))
    return list_unfrozen(spec, recipe.freeze_layers, recipe.freeze)


def init_adapters(spec: ModelSpec, lora: Lora, seed: int) -> Tensors:
    """First values: A normal, from a stream of its own by name, B zero."""
    table = list_adapter_tensors(spec, lora)

    def make(name: str) -> Array:
        tensor = table[name]
        if tensor.init == "zeros":
            return np.zeros(tensor.shape, np.float32)
        return draw_normals(seed, f"adapters/{name}", tensor.shape, tensor.std)

    return LazyTensors(table, make)


def merge_adapters(spec: ModelSpec, params: Tensors, lora: Lora) -> Tensors:
    """The model's weights with the adapters added in, W + alpha / rank B A, made one at a time.

    params: the base's tensors and the adapters', under their names.
    """
    paths = set(find_adapted_paths(spec, lora))

    def make(name: str) -> Array:
        weight = params[name]
        path = name.removesuffix(".weight")
        if path not in paths:
            return weight
        a, b = params[f"{path}.lora_A.weight"], params[f"{path}.lora_B.weight"]
        added = lora.scale * (b.astype(np.float64) @ a.astype(np.float64))
        return (weight.astype(np.float64) + added).astype(weight.dtype)

    return LazyTensors(list_parameters(spec), make)

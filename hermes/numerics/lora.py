"""LoRA adapters: the tensors that a recipe trains, their initial values, and what they amount to.

A matrix `PATH.weight` of shape (out, in) gets `PATH.lora_A.weight` (rank, in) and
`PATH.lora_B.weight` (out, rank), with DoRA also `PATH.lora_magnitude_vector` (out,); the embeddings
and an untied head get rows of tokens, whole ones: PEFT's names without its prefix. The formula is
in `hermes.recipe.Lora`. A fresh adapter leaves the model unchanged: B starts at 0, magnitudes at
the rows' lengths, and rows of tokens at the model's own.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from hermes.errors import HermesError
from hermes.interface import Array, LazyTensors, Tensors
from hermes.numerics.merging import DOWN, MAGNITUDE, TOKEN_ROWS, UP, Adapter, merge_tensors
from hermes.numerics.params import Tensor, list_parameters, list_unfrozen
from hermes.numerics.randomness import draw_normals
from hermes.recipe import LORA_TARGETS, Lora, Recipe
from hermes.spec import ModelSpec

__all__ = [
    "describe_adapter",
    "find_adapted_paths",
    "find_token_paths",
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


def find_token_paths(spec: ModelSpec, lora: Lora) -> tuple[str, ...]:
    """Find the matrices of which rows of tokens are trained: the embeddings and an untied head.

    Raises HermesError where the model has no such token.
    """
    if not lora.token_ids:
        return ()
    if lora.token_ids[-1] >= spec.vocab_size:
        raise HermesError(
            f"lora.token_ids names token {lora.token_ids[-1]}, and the model has rows for "
            f"{spec.vocab_size}"
        )
    embeddings = ("model.embed_tokens",)
    return embeddings if spec.embeddings.tie_weights else (*embeddings, "lm_head")


def list_adapter_tensors(spec: ModelSpec, lora: Lora) -> Mapping[str, Tensor]:
    """List what a recipe trains, by name. Raises HermesError.

    Weight decay applies as to the model's own: to matrices, so to A, B and rows of tokens, and not
    to magnitudes.
    """
    table = list_parameters(spec)
    paths = find_adapted_paths(spec, lora)
    max_rank = max(min(table[f"{path}.weight"].shape) for path in paths)
    if lora.rank > max_rank:
        raise HermesError(
            f"lora.rank is {lora.rank}, and no matrix that it adapts has a rank above {max_rank}; "
            "8 is usual"
        )
    return dict(_walk_adapters(spec, lora, paths))


def _walk_adapters(
    spec: ModelSpec, lora: Lora, paths: tuple[str, ...]
) -> Iterator[tuple[str, Tensor]]:
    table = list_parameters(spec)
    for path in paths:
        rows, columns = table[f"{path}.weight"].shape
        std = 1 / math.sqrt(3 * columns)  # that of PEFT's uniform(-1 / sqrt(in), 1 / sqrt(in))
        yield (
            f"{path}.{DOWN}",
            Tensor((lora.rank, columns), "adapters", "normal", std, decay=True),
        )
        yield f"{path}.{UP}", Tensor((rows, lora.rank), "adapters", "zeros", decay=True)
        if lora.dora:
            yield f"{path}.{MAGNITUDE}", Tensor((rows,), "adapters", "lengths")
    for path in find_token_paths(spec, lora):
        shape = len(lora.token_ids), spec.hidden_size
        yield f"{path}.{TOKEN_ROWS}", Tensor(shape, "adapters", "rows", decay=True)


def list_trainable(spec: ModelSpec, recipe: Recipe) -> tuple[str, ...]:
    """List the tensors that a run trains: under LoRA the adapters, else all not frozen."""
    if recipe.lora is not None:
        return tuple(list_adapter_tensors(spec, recipe.lora))
    return list_unfrozen(spec, recipe.freeze_layers, recipe.freeze)


def init_adapters(spec: ModelSpec, lora: Lora, seed: int, base: Tensors) -> Tensors:
    """Make the initial values: A normal, each from its own random stream, and the rest from base.

    base: the weights of the model, float32 or float64.
    """
    table = list_adapter_tensors(spec, lora)

    def make(name: str) -> Array:
        tensor = table[name]
        match tensor.init:
            case "zeros":
                return np.zeros(tensor.shape, np.float32)
            case "lengths":
                matrix = base[name.replace(MAGNITUDE, "weight")].astype(np.float64)
                return np.asarray(np.linalg.norm(matrix, axis=1), np.float32)
            case "rows":
                rows = base[name.replace(TOKEN_ROWS, "weight")][list(lora.token_ids)]
                return np.asarray(rows, np.float32)
        return draw_normals(seed, f"adapters/{name}", tensor.shape, tensor.std)

    return LazyTensors(table, make)


def describe_adapter(spec: ModelSpec, lora: Lora, tensors: Tensors) -> Adapter:
    """A recipe's adapter. tensors: those of `list_adapter_tensors`, and maybe the model's."""
    return Adapter(
        LazyTensors(list_adapter_tensors(spec, lora), lambda name: tensors[name]),
        dict.fromkeys(find_adapted_paths(spec, lora), lora.scale),
        dict.fromkeys(find_token_paths(spec, lora), lora.token_ids),
    )


def merge_adapters(spec: ModelSpec, params: Tensors, lora: Lora) -> Tensors:
    """Merge a recipe's adapters into the weights, in float64, one tensor at a time.

    params: the base model's tensors and the adapters', by name.
    """
    return merge_tensors(spec, params, describe_adapter(spec, lora, params))

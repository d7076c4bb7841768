"""The shape of a model in words: every key resolved, equal layers said once."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from hermes.mal.writer import describe
from hermes.numerics.params import Tensor
from hermes.spec import BlockSpec, ModelSpec

__all__ = ["describe_layer", "describe_model", "format_ranges", "group_layers", "group_tensors"]

LAYER = re.compile(r"\.layers\.(\d+)\.")


def describe_model(spec: ModelSpec) -> dict[str, str]:
    """Every key of the model itself, the final norm resolved, as MAL says them."""
    own = describe(spec)
    sizes = {key: own[key] for key in ("vocab_size", "max_seq_len", "hidden_size", "num_layers")}
    embeddings = {f"embeddings.{key}": text for key, text in describe(spec.embeddings).items()}
    resolved = replace(spec.output, norm=spec.final_norm)
    output = {f"output.{key}": text for key, text in describe(resolved).items()}
    return {**sizes, **embeddings, **output}


def describe_layer(block: BlockSpec) -> dict[str, str]:
    """Every key of a resolved layer, as MAL says them: attention.num_heads, ffn.bias, norm, ..."""
    keys: dict[str, str] = {}
    for key, text in describe(block).items():
        match key:
            case "attention":
                found = describe(block.attention).items()
                keys |= {f"attention.{inner}": value for inner, value in found}
            case "ffn":
                keys |= {f"ffn.{inner}": value for inner, value in describe(block.ffn).items()}
            case _:
                keys[key] = text
    return keys


def group_layers(spec: ModelSpec) -> list[tuple[list[int], BlockSpec]]:
    """The different layers of a model, each with the numbers of those that are so."""
    groups: dict[BlockSpec, list[int]] = {}
    for index, block in enumerate(spec.layers):
        groups.setdefault(block, []).append(index)
    return [(indices, block) for block, indices in groups.items()]


def format_ranges(numbers: Iterable[int]) -> str:
    """Ascending numbers in few words: 0-3, 5, 7-8; of many spans the first and the last."""
    ends: list[list[int]] = []
    for number in numbers:
        if ends and ends[-1][1] == number - 1:
            ends[-1][1] = number
        else:
            ends.append([number, number])
    words = [f"{first}-{last}" if first != last else f"{first}" for first, last in ends]
    return ", ".join(words if len(words) <= 8 else [*words[:4], "...", words[-1]])


def group_tensors(names: Iterable[str], table: Mapping[str, Tensor]) -> list[tuple[str, list[str]]]:
    """Tensors of one shape that differ by their layer alone, under one label."""
    groups: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for name in names:
        key = LAYER.sub(".layers.*.", name), table[name].shape
        groups.setdefault(key, []).append(name)
    found = []
    for (pattern, _), members in groups.items():
        layers = [int(match[1]) for name in members if (match := LAYER.search(name))]
        label = pattern.replace("*", f"[{format_ranges(layers)}]") if layers else pattern
        found.append((label, members))
    return found

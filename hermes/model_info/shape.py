"""The shape of a model in words: every key resolved, equal layers grouped."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace

from hermes.mal.writer import describe
from hermes.numerics.params import Tensor
from hermes.spec import BlockSpec, ModelSpec

__all__ = ["describe_layer", "describe_model", "format_ranges", "group_layers", "group_tensors"]

LAYER = re.compile(r"\.layers\.(\d+)\.")


def describe_model(spec: ModelSpec) -> dict[str, str]:
    """Describe the keys of the model itself in MAL, with the final norm resolved."""
    own = describe(spec)
    sizes = {key: own[key] for key in ("vocab_size", "max_seq_len", "hidden_size", "num_layers")}
    embeddings = {f"embeddings.{key}": text for key, text in describe(spec.embeddings).items()}
    resolved = replace(spec.output, norm=spec.final_norm)
    output = {f"output.{key}": text for key, text in describe(resolved).items()}
    return {**sizes, **embeddings, **output}


def describe_layer(block: BlockSpec) -> dict[str, str]:
    """Describe the keys of a resolved layer in MAL: attention.num_heads, ffn.bias, norm, ..."""
    keys: dict[str, str] = {}
    for key, text in describe(block).items():
        match key:
            case "attention" if block.attention is not None:
                found = describe(block.attention).items()
                keys |= {f"attention.{inner}": value for inner, value in found}
            case "ffn" if block.ffn is not None:
                keys |= {f"ffn.{inner}": value for inner, value in describe(block.ffn).items()}
            case _:
                keys[key] = text
    return keys


def group_layers(spec: ModelSpec) -> list[tuple[list[int], BlockSpec]]:
    """Group equal layers of a model, with their indices."""
    groups: dict[BlockSpec, list[int]] = {}
    for index, block in enumerate(spec.layers):
        groups.setdefault(block, []).append(index)
    return [(indices, block) for block, indices in groups.items()]


def format_ranges(numbers: Iterable[int]) -> str:
    """Format ascending numbers as ranges: 0-3, 5, 7-8; more than eight are abridged."""
    ends: list[list[int]] = []
    for number in numbers:
        if ends and ends[-1][1] == number - 1:
            ends[-1][1] = number
        else:
            ends.append([number, number])
    words = [f"{first}-{last}" if first != last else f"{first}" for first, last in ends]
    return ", ".join(words if len(words) <= 8 else [*words[:4], "...", words[-1]])


def group_tensors(names: Iterable[str], table: Mapping[str, Tensor]) -> list[tuple[str, list[str]]]:
    """Group tensors that have the same shape and differ only in their layer, with a label."""
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

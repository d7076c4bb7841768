"""The layers of a specification: what they share, and where those of a class may differ.

Layers of one class differ in windows, positions and dropout alone.
"""

import dataclasses
import math
from collections.abc import Sequence

from hermes.spec import (
    AttentionSpec,
    BlockSpec,
    FfnSpec,
    ModelSpec,
    NoPositions,
    Positions,
    Rope,
    WholeBlock,
    YarnScaling,
    is_whole,
)

__all__ = [
    "ACTIVATIONS",
    "build_pattern",
    "find_attention_scalar",
    "find_common_block",
    "find_scale",
    "find_window_period",
    "has_valid_ramp",
    "list_positions",
    "list_windows",
    "name_activation",
]

# Hugging Face's names of activation functions -> MAL's.
ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_fast": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "relu2": "relu2",
}


def find_common_block(spec: ModelSpec) -> WholeBlock | None:
    """Find the block that all layers share, apart from dropout, window and positions.

    None where layers differ in more than these, or one has no attention or no ffn.
    """
    layers = [layer for layer in spec.layers if is_whole(layer)]
    if len(layers) < spec.num_layers:
        return None
    shapes = {
        dataclasses.replace(
            layer,
            dropout=0.0,
            attention=dataclasses.replace(
                layer.attention, dropout=0.0, window_size=None, position_encoding=NoPositions()
            ),
            ffn=dataclasses.replace(layer.ffn, dropout=0.0),
        )
        for layer in layers
    }
    return shapes.pop() if len(shapes) == 1 else None


def list_windows(spec: ModelSpec) -> list[int | None]:
    """List the window of each layer; None where it has full attention."""
    return [attention.window_size for attention in spec.attentions]


def find_window_period(windows: Sequence[int | None]) -> int | None:
    """Find n such that all layers but every n-th have a window; None for other patterns.

    This is Gemma 3's older form, sliding_window_pattern. For other patterns it is written as null:
    a reader that knows only this form then fails, instead of computing something else.
    """
    period = next((i for i, window in enumerate(windows) if window is None), len(windows)) + 1
    regular = all((w is None) == ((i + 1) % period == 0) for i, w in enumerate(windows))
    return period if regular else None


def list_positions(spec: ModelSpec) -> list[Positions]:
    """List the positions of each layer; a rotary_dim of the whole head becomes None."""
    return [
        dataclasses.replace(position, rotary_dim=None)
        if isinstance(position, Rope) and position.rotary_dim == attention.head_size
        else position
        for attention in spec.attentions
        for position in [attention.position_encoding]
    ]


def build_pattern(
    block: BlockSpec, windows: Sequence[int | None], positions: Sequence[Positions]
) -> tuple[BlockSpec, ...]:
    """Build the shortest pattern of blocks that gives every layer its window and positions."""
    assert is_whole(block), "readers of configurations make no other blocks"
    layers = list(zip(windows, positions, strict=True))
    period = next(
        p
        for p in range(1, len(layers) + 1)
        if all(layer == layers[i % p] for i, layer in enumerate(layers))
    )
    names: dict[tuple[int | None, Positions], str] = {}
    for window, position in layers[:period]:
        word = "full" if window is None else "sliding"
        same = sum(name.startswith(word) for name in names.values())
        names.setdefault((window, position), f"{word}{same + 1}" if same else word)
    return tuple(
        dataclasses.replace(
            block,
            name=names[window, position] if period > 1 else "",
            attention=dataclasses.replace(
                block.attention, window_size=window, position_encoding=position
            ),
        )
        for window, position in layers[:period]
    )


def has_valid_ramp(spec: ModelSpec, rope: Rope) -> bool:
    """False for a YaRN whose ramp is empty, which readers compute differently."""
    if not isinstance(rope.scaling, YarnScaling):
        return True
    from hermes.numerics.positions import yarn_range  # and NumPy, of which this alone has need

    size = rope.rotary_dim or spec.attentions[0].head_size
    low, high = yarn_range(rope.scaling, rope.theta, size)
    return low <= high


def find_scale(attention: AttentionSpec) -> float | None:
    """Find the factor of scores; None where it is the usual 1 / sqrt(D)."""
    usual = math.isclose(attention.score_scale, attention.head_size**-0.5, rel_tol=1e-12)
    return None if usual else attention.score_scale


def find_attention_scalar(attention: AttentionSpec) -> int | None:
    """Find Gemma's query_pre_attn_scalar s: the scale is 1 / sqrt(s); None if s is no integer."""
    scalar = round(attention.score_scale**-2)
    fits = scalar >= 1 and math.isclose(scalar**-0.5, attention.score_scale, rel_tol=1e-12)
    return scalar if fits else None


def name_activation(ffn: FfnSpec, gelu_tanh: str = "gelu_pytorch_tanh") -> str:
    """Name the activation as Hugging Face does; gelu_tanh has several names."""
    return gelu_tanh if ffn.function == "gelu_tanh" else ffn.function

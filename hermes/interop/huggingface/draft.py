"""A specification while it is read, and one while it is written: values by their path.

Paths are those of MAL where MAL has a key: "hidden_size", "attention.num_heads", "ffn.bias",
"block.parallel", "embeddings.scale", "output.bias"; "norm" is the norm of the blocks. The windows
and positions of the layers, in which layers may differ, are lists.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from hermes.interop.huggingface.layers import (
    build_pattern,
    find_scale,
    list_positions,
    list_windows,
)
from hermes.spec import (
    MAX_LAYERS,
    AttentionSpec,
    BlockSpec,
    EmbeddingsSpec,
    FfnSpec,
    ModelSpec,
    Norm,
    OutputSpec,
    Positions,
    Rope,
    WholeBlock,
)

__all__ = ["Draft", "View", "strip_rates"]

_PARTS = ("attention", "ffn", "block", "embeddings", "output")


@dataclass
class Draft:
    """What has been read of a specification. windows, positions: of each layer, where not usual."""

    values: dict[str, Any] = field(default_factory=dict)
    windows: list[int | None] = field(default_factory=list)
    positions: list[Positions] = field(default_factory=list)

    def __getitem__(self, path: str) -> Any:
        return self.values[path]

    def __setitem__(self, path: str, value: Any) -> None:
        self.values[path] = value

    def get(self, path: str, default: Any = None) -> Any:
        """The value at a path, or the default."""
        return self.values.get(path, default)

    @property
    def head_size(self) -> int:
        """D: the head_dim that was read, else C / H."""
        size: int | None = self.get("attention.head_dim")
        return size or max(self["hidden_size"] // self["attention.num_heads"], 1)

    def build(self, name: str) -> ModelSpec:
        """Build the specification. Raises SpecError."""
        of: dict[str, dict[str, Any]] = {part: {} for part in (*_PARTS, "")}
        for path, value in self.values.items():
            part, _, key = path.rpartition(".")
            if path != "norm":
                of[part][key] = value
        block = BlockSpec(
            attention=AttentionSpec(**of["attention"]),
            ffn=FfnSpec(**of["ffn"]),
            norm=self["norm"],
            **of["block"],
        )
        layers = self["num_layers"]
        return ModelSpec(
            name=name,
            blocks=build_pattern(
                block,
                self.windows or [None] * min(layers, MAX_LAYERS),
                self.positions or [Rope()] * min(layers, MAX_LAYERS),
            ),
            embeddings=EmbeddingsSpec(**of["embeddings"]),
            output=OutputSpec(**of["output"]),
            **of[""],
        )


class View:
    """A specification whose layers share a block, read by path.

    positions: as `list_positions`. used: the specification with all its learned positions in use.
    """

    def __init__(self, spec: ModelSpec, block: WholeBlock):
        self.spec = spec
        self.block = block
        self.windows = list_windows(spec)
        self.positions = list_positions(spec)
        # Positions that the model has and does not use are used after reading.
        longest = max(spec.max_seq_len, spec.learned_positions)
        self.used = dataclasses.replace(spec, max_seq_len=longest)

    def __getitem__(self, path: str) -> Any:
        part, _, key = path.rpartition(".")
        match part:
            case "":
                return getattr(self.block if key == "norm" else self.spec, key)
            case "block":
                return getattr(self.block, key)
            case "embeddings" | "output":
                return getattr(getattr(self.spec, part), key)
            case "attention" if key == "scale":
                return find_scale(self.block.attention)
        return getattr(getattr(self.block, part), key)

    @property
    def norm(self) -> Norm:
        """The norm of the blocks."""
        return self.block.norm

    @property
    def rope(self) -> Rope | None:
        """The RoPE of the first layer that has one."""
        return next((rope for rope in self.positions if isinstance(rope, Rope)), None)

    @property
    def window(self) -> int | None:
        """The window of the first layer that has one."""
        return next((window for window in self.windows if window is not None), None)

    def find_rate(self, path: str) -> float:
        """Find the dropout rate of all layers; 0 if they differ, as the classes have only one."""
        if path.startswith("embeddings."):
            return self.spec.embeddings.dropout
        part = path.removesuffix("dropout").removesuffix(".").removeprefix("block")
        rates = {(getattr(layer, part) if part else layer).dropout for layer in self.spec.layers}
        return rates.pop() if len(rates) == 1 else 0.0


def strip_rates(spec: ModelSpec) -> ModelSpec:
    """Set every dropout rate to 0: rates change training, not the function."""

    def strip(block: BlockSpec) -> BlockSpec:
        attention = block.attention and dataclasses.replace(block.attention, dropout=0.0)
        ffn = block.ffn and dataclasses.replace(block.ffn, dropout=0.0)
        return dataclasses.replace(block, dropout=0.0, attention=attention, ffn=ffn)

    return dataclasses.replace(
        spec,
        blocks=tuple(strip(block) for block in spec.blocks),
        embeddings=dataclasses.replace(spec.embeddings, dropout=0.0),
    )

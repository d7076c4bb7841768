"""The architecture of a model as plain data: what a MAL file means and what a backend builds.

Frozen dataclasses that validate themselves; a field left at None is derived from the others.
Backends read `ModelSpec.layers`, in which every value is filled in. Imports nothing but errors. The
language is `hermes.mal`; what each field means is specified in `specs/mal.md`.

Letters: V vocabulary, C hidden size, L layers, H query heads, K key/value heads, D head size,
F feed-forward size, T positions.
"""

from hermes.spec.attention import (
    BIASES,
    QK_NORM_KINDS,
    QK_NORM_RANGES,
    QK_NORMS,
    AttentionSpec,
    QkNorm,
)
from hermes.spec.block import (
    ACTIVATIONS,
    NORM_POSITIONS,
    BlockSpec,
    FfnSpec,
    WholeBlock,
    is_whole,
)
from hermes.spec.checks import list_field_types
from hermes.spec.model import MAX_LAYERS, EmbeddingsSpec, ModelSpec, OutputSpec
from hermes.spec.parts import (
    SLOPES,
    Alibi,
    LayerNorm,
    Learned,
    NoNorm,
    NoPositions,
    Norm,
    Positions,
    RMSNorm,
)
from hermes.spec.rope import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Rope,
    Scaling,
    YarnScaling,
)

__all__ = [
    "ACTIVATIONS",
    "BIASES",
    "MAX_LAYERS",
    "NORM_POSITIONS",
    "QK_NORMS",
    "QK_NORM_KINDS",
    "QK_NORM_RANGES",
    "SLOPES",
    "Alibi",
    "AttentionSpec",
    "BlockSpec",
    "DynamicScaling",
    "EmbeddingsSpec",
    "FfnSpec",
    "LayerNorm",
    "Learned",
    "LinearScaling",
    "Llama3Scaling",
    "LongRopeScaling",
    "ModelSpec",
    "NoNorm",
    "NoPositions",
    "Norm",
    "OutputSpec",
    "Positions",
    "QkNorm",
    "RMSNorm",
    "Rope",
    "Scaling",
    "WholeBlock",
    "YarnScaling",
    "is_whole",
    "list_field_types",
]

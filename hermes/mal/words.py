"""The vocabulary of MAL: kinds, keys and synonyms.

Keys are the fields of the dataclasses in `hermes.spec`, so that a new field needs no line here; a
new kind of norm or position encoding needs its word in WORDS.
"""

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import Any

from hermes.errors import suggest_nearest
from hermes.mal.tree import quote
from hermes.spec import (
    Alibi,
    AttentionSpec,
    BlockSpec,
    DynamicScaling,
    EmbeddingsSpec,
    FfnSpec,
    LayerNorm,
    Learned,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    ModelSpec,
    NoNorm,
    NoPositions,
    OutputSpec,
    QkNorm,
    RMSNorm,
    Rope,
    YarnScaling,
    list_field_types,
)

__all__ = [
    "DEFINED",
    "SPELLINGS",
    "SYNONYMS",
    "TEXTS",
    "WORDS",
    "describe_unknown_key",
    "join_alternatives",
    "list_keys",
    "list_required_keys",
]

# Kinds that can be defined by name.
DEFINED: Mapping[str, type] = {
    "attention": AttentionSpec,
    "ffn": FfnSpec,
    "block": BlockSpec,
    "model": ModelSpec,
}
WORDS: Mapping[type, str] = {
    **{kind: word for word, kind in DEFINED.items()},
    EmbeddingsSpec: "embeddings",
    OutputSpec: "output",
    QkNorm: "qk_norm",
    Rope: "rope",
    Learned: "learned",
    Alibi: "alibi",
    NoPositions: "none",
    LinearScaling: "linear",
    Llama3Scaling: "llama3",
    YarnScaling: "yarn",
    LongRopeScaling: "longrope",
    DynamicScaling: "dynamic",
    RMSNorm: "rmsnorm",
    LayerNorm: "layernorm",
    NoNorm: "none",
}
# Other names of a key, for the kinds that have the key.
SYNONYMS: Mapping[str, str] = {
    "n_heads": "num_heads",
    "attention_heads": "num_heads",
    "kv_heads": "num_kv_heads",
    "rope_theta": "theta",
    "base": "theta",
    "rope_scaling": "scaling",
    "intermediate_size": "hidden_dim",
    "norm_eps": "eps",
    "context_length": "max_seq_len",
    "seq_len": "max_seq_len",
    "d_model": "hidden_size",
    "embed_dim": "hidden_size",
    "n_layers": "num_layers",
    "depth": "num_layers",
}
# Per key, values in a file that are spelt differently in a spec.
SPELLINGS: Mapping[str, Mapping[str, str]] = {
    "bias": {"true": "all", "false": "none"},
    "qk_norm": {"true": "head", "false": "none"},
    "activation": {"gelu_new": "gelu_tanh"},
}
TEXTS = ("description",)  # keys whose string is written in quotes; others are written as a word


def list_keys(kind: Any) -> Mapping[str, tuple[type, ...]]:
    """List the keys of a kind in canonical order, each with the types of its value."""
    found = dict(list_field_types(kind))
    found.pop("name", None)  # written before the brace
    if found.pop("blocks", None):
        blocks: dict[str, tuple[type, ...]] = {"block": (BlockSpec,), "pattern": (tuple,)}
        parts = {name: found.pop(name) for name in ("embeddings", "output")}
        found |= blocks | parts
    return found


def list_required_keys(kind: Any) -> list[str]:
    """List the keys that a body of this kind must have."""
    return [
        field.name
        for field in fields(kind)
        if field.default is MISSING
        and field.default_factory is MISSING
        and field.name in list_keys(kind)
    ]


def _list_spellings(kind: Any) -> list[str]:
    """List the keys of a kind with their synonyms."""
    return [*list_keys(kind), *(word for word, key in SYNONYMS.items() if key in list_keys(kind))]


def join_alternatives(words: Iterable[str]) -> str:
    """Join words into alternatives: rope, learned or none."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def describe_unknown_key(kind: Any, key: str) -> str:
    """Describe a key that a kind does not have, with the nearest key or the kinds that have it."""
    hint = suggest_nearest(key, _list_spellings(kind))
    owners = dict.fromkeys(word for other, word in WORDS.items() if key in _list_spellings(other))
    if not hint and owners:
        hint = f"; it belongs in {join_alternatives(owners)}"
    elif not hint:
        hint = (
            f"; known are {', '.join(list_keys(kind))}"
            if list_keys(kind)
            else ", which has no keys"
        )
    return f"unknown key {quote(key)} in {WORDS[kind]}{hint}"

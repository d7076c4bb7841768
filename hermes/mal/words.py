"""The words of MAL: kinds, other spellings, and the keys that each kind's dataclass gives it.

A field added to a dataclass of `hermes.spec` is a key here with no line in this file; a new kind
of norm or position needs its word in WORDS.
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
    EmbeddingsSpec,
    FfnSpec,
    LayerNorm,
    Learned,
    LinearScaling,
    Llama3Scaling,
    ModelSpec,
    NoNorm,
    NoPositions,
    OutputSpec,
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
    Rope: "rope",
    Learned: "learned",
    Alibi: "alibi",
    NoPositions: "none",
    LinearScaling: "linear",
    Llama3Scaling: "llama3",
    YarnScaling: "yarn",
    RMSNorm: "rmsnorm",
    LayerNorm: "layernorm",
    NoNorm: "none",
}
# Other names of a key, where the class has the key.
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
# Words of a file for the words of a spec, by key.
SPELLINGS: Mapping[str, Mapping[str, str]] = {
    "bias": {"true": "all", "false": "none"},
    "qk_norm": {"true": "head", "false": "none"},
    "activation": {"gelu_new": "gelu_tanh"},
}
TEXTS = ("description",)  # keys whose value is text in quotes; that of others is a word


def list_keys(kind: Any) -> Mapping[str, tuple[type, ...]]:
    """The keys of a body of this kind in canonical order, each with the types it may have."""
    found = dict(list_field_types(kind))
    found.pop("name", None)  # stands before the brace
    if found.pop("blocks", None):
        blocks: dict[str, tuple[type, ...]] = {"block": (BlockSpec,), "pattern": (tuple,)}
        parts = {name: found.pop(name) for name in ("embeddings", "output")}
        found |= blocks | parts
    return found


def list_required_keys(kind: Any) -> list[str]:
    """The keys without which a body of this kind means nothing."""
    return [
        field.name
        for field in fields(kind)
        if field.default is MISSING
        and field.default_factory is MISSING
        and field.name in list_keys(kind)
    ]


def _list_spellings(kind: Any) -> list[str]:
    """Every word that is a key of this kind, synonyms too."""
    return [*list_keys(kind), *(word for word, key in SYNONYMS.items() if key in list_keys(kind))]


def join_alternatives(words: Iterable[str]) -> str:
    """Words as a sentence offers them: rope, learned or none."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def describe_unknown_key(kind: Any, key: str) -> str:
    """The sentence about a key that this kind does not have."""
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

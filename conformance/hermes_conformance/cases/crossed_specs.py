"""Architectures that combine every two values of any two fields of MAL."""

from dataclasses import replace
from functools import cache
from typing import Any

from hermes.spec import (
    ACTIVATIONS,
    NORM_POSITIONS,
    AttentionSpec,
    BlockSpec,
    EmbeddingsSpec,
    FfnSpec,
    LayerNorm,
    ModelSpec,
    NoNorm,
    Norm,
    OutputSpec,
    RMSNorm,
)
from hermes_conformance.cases.attention_specs import make_crossed_attentions
from hermes_conformance.cases.covering_array import Row, make_covering_array
from hermes_conformance.cases.specs import GATED, HEADS, MASKS, NORMS, OTHER, POSITIONS, make_spec

ALONE: dict[str, Any] = {"parallel": False, "shared_norm": False}  # of a layer of one sublayer

FACTORS = {
    "positions": tuple(POSITIONS),
    "activation": (*ACTIVATIONS, *GATED),
    "heads": tuple(HEADS),
    "norm": tuple(NORMS),
    "mask": tuple(MASKS),
    "norm_position": NORM_POSITIONS,
    "layers": ("1", "2", "3 of pattern", "2, one without attention", "2, one without ffn"),
    "bias": ("none", "qkv", "all"),
    "qk_norm": ("none", "head", "flat"),
    "output_norm": ("last", "none", "layernorm", "noweight"),
    "attention_dropout": ("0", "0.2"),
    "softcap": ("none", "2"),
    "scale": ("none", "0.3"),
    "ffn_bias": ("no", "yes"),
    "ffn_dropout": ("0", "0.3"),
    "hidden_dim": ("40", "default"),
    "limit": ("none", "1.5"),
    "residual": ("yes", "no"),
    "residual_scale": ("none", "0.22"),
    "parallel": ("no", "yes"),
    "shared_norm": ("no", "yes"),
    "block_dropout": ("0", "0.1"),
    "tied": ("no", "yes"),
    "embedding_dropout": ("0", "0.15"),
    "embedding_scale": ("none", "3"),
    "embedding_norm": ("none", "rmsnorm", "layernorm"),
    "output_bias": ("no", "yes"),
    "output_softcap": ("none", "5"),
    "output_scale": ("none", "0.3"),
    "vocab_size": ("37", "64"),
}


def is_allowed(row: Row) -> bool:
    """Whether MAL accepts such a block: what it refuses are fields that others leave no place."""
    parallel, position = row.get("parallel", "yes"), row.get("norm_position", "pre")
    clamped = row.get("limit", "none") != "none"
    if clamped and row.get("activation", "swiglu") not in ("swiglu", "silu-gated"):
        return False
    if row.get("shared_norm") == "yes":
        return parallel == "yes" and position == "pre"
    return not (row.get("parallel") == "yes" and position == "post")


@cache
def make_crossed_specs() -> dict[str, ModelSpec]:
    """Architectures that combine every two values of any two factors, by the row's number."""
    rows = make_covering_array(FACTORS, is_allowed)
    specs = {f"crossed.{n:03d}": _make_crossed_spec(row) for n, row in enumerate(rows)}
    attentions = make_crossed_attentions()
    return specs | {name: make_spec(attention) for name, attention in attentions.items()}


def _parse_number(text: str) -> float | None:
    return None if text == "none" else float(text)


def _make_crossed_spec(row: Row) -> ModelSpec:
    heads, keys, size = HEADS[row["heads"]]
    causal, window = MASKS[row["mask"]]
    attention = AttentionSpec(
        heads,
        keys,
        size,
        bias=row["bias"],
        dropout=float(row["attention_dropout"]),
        causal=causal,
        window_size=window,
        position_encoding=POSITIONS[row["positions"]],
        qk_norm=row["qk_norm"],
        softcap=_parse_number(row["softcap"]),
        scale=_parse_number(row["scale"]),
    )
    activation, _, gated = row["activation"].partition("-")
    ffn = FfnSpec(
        40 if row["hidden_dim"] == "40" else None,
        activation,
        True if gated else None,
        bias=row["ffn_bias"] == "yes",
        dropout=float(row["ffn_dropout"]),
        limit=_parse_number(row["limit"]),
        alpha=None if row["limit"] == "none" else 1.702,
    )
    block = BlockSpec(
        attention,
        ffn,
        NORMS[row["norm"]],
        row["norm_position"],
        residual=row["residual"] == "yes",
        dropout=float(row["block_dropout"]),
        parallel=row["parallel"] == "yes",
        residual_scale=_parse_number(row["residual_scale"]),
        shared_norm=row["shared_norm"] == "yes",
    )
    output_norms: dict[str, Norm | None] = {
        "last": None,
        "none": NoNorm(),
        "layernorm": LayerNorm(),
        "noweight": RMSNorm(weight=False),
    }
    embedding_norms: dict[str, RMSNorm | LayerNorm | None] = {
        "none": None,
        "rmsnorm": RMSNorm(),
        "layernorm": LayerNorm(),
    }
    parts = {
        "3 of pattern": (block, OTHER),
        "2, one without attention": (block, replace(block, attention=None, **ALONE)),
        "2, one without ffn": (replace(block, ffn=None, **ALONE), block),
    }
    return ModelSpec(
        blocks=parts.get(row["layers"], (block,)),
        vocab_size=int(row["vocab_size"]),
        max_seq_len=32,
        hidden_size=24,
        num_layers=int(row["layers"][0]),
        embeddings=EmbeddingsSpec(
            tie_weights=row["tied"] == "yes",
            dropout=float(row["embedding_dropout"]),
            scale=_parse_number(row["embedding_scale"]),
            norm=embedding_norms[row["embedding_norm"]],
        ),
        output=OutputSpec(
            bias=row["output_bias"] == "yes",
            norm=output_norms[row["output_norm"]],
            softcap=_parse_number(row["output_softcap"]),
            scale=_parse_number(row["output_scale"]),
        ),
    )

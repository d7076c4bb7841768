"""Attentions with the fields that came after the first version of the golden folder.

`make_attentions` changes one field of attention at a time and names it by its path in a file.
"""

from typing import Any

from hermes.spec import (
    Alibi,
    AttentionSpec,
    DynamicScaling,
    LongRopeScaling,
    NoPositions,
    Positions,
    QkNorm,
    Rope,
    YarnScaling,
)

QK_NORMS = {
    "each_head": QkNorm("each_head"),
    "head layernorm": QkNorm("head", "layernorm"),
    "flat layernorm": QkNorm("flat", "layernorm"),
    "each_head layernorm": QkNorm("each_head", "layernorm"),
    "head plain": QkNorm("head", weight=False),
    "flat layernorm plain": QkNorm("flat", "layernorm", weight=False),
}
# Heads have three pairs; rows have ten tokens, more than 8 and fewer than 16.
SHORT, LONG = (1.0, 1.5, 3.0), (2.0, 5.0, 11.0)
POSITIONS: dict[str, Positions] = {
    "rope-yarn-factor": Rope(scaling=YarnScaling(4.0, 16, attention_factor=1.3)),
    "rope-yarn-smooth": Rope(100.0, YarnScaling(4.0, 64, 4.0, 1.0, truncate=False)),
    "rope-longrope": Rope(scaling=LongRopeScaling(SHORT, LONG, 8)),
    "rope-longrope-short": Rope(scaling=LongRopeScaling(SHORT, LONG, 16)),
    "rope-longrope-factor": Rope(
        scaling=LongRopeScaling(SHORT[:2], LONG[:2], 8, attention_factor=1.2), rotary_dim=4
    ),
    "rope-dynamic": Rope(scaling=DynamicScaling(4.0, 8)),
    "rope-dynamic-short": Rope(scaling=DynamicScaling(4.0, 16)),
}
OTHER_FIELDS: dict[str, dict[str, Any]] = {
    "clip_qkv=0.8": {"clip_qkv": 0.8},
    "clip_qkv=0.8 qk_norm": {"clip_qkv": 0.8, "qk_norm": "head", "bias": "all"},
    "bias=o": {"bias": "o"},
    "v_head_dim=4": {"v_head_dim": 4},
    "v_head_dim=10": {"num_kv_heads": 1, "v_head_dim": 10, "softcap": 3.0},
    "v_head_dim=1": {"num_kv_heads": None, "v_head_dim": 1, "position_encoding": Alibi()},
    "output_gate=true": {"output_gate": True},
    "output_gate=true biased": {"output_gate": True, "bias": "qkv", "v_head_dim": 8},
    "sinks=true": {"sinks": True},
    "sinks=true window": {"sinks": True, "window_size": 3, "dropout": 0.2, "bias": "all"},
    "sinks=true none": {"sinks": True, "bias": "qkv", "position_encoding": NoPositions()},
    "sinks=true both": {"sinks": True, "causal": False, "softcap": 2.0},
}


def make_attentions() -> dict[str, AttentionSpec]:
    """One attention for every value of each of these fields, the others at their defaults."""
    norms = {f"qk_norm={label}": {"qk_norm": norm} for label, norm in QK_NORMS.items()}
    positions = {
        f"position_encoding={label}": {"position_encoding": position}
        for label, position in POSITIONS.items()
    }
    fields: dict[str, dict[str, Any]] = norms | positions | OTHER_FIELDS
    return {
        f"attention.{name}": AttentionSpec(**{"num_heads": 4, "num_kv_heads": 2, **field})
        for name, field in fields.items()
    }

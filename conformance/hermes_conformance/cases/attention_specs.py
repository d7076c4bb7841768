"""Attentions: what is done to queries, keys and values beyond the plain form.

`make_attentions` changes one field of attention at a time and names it by its path in a file;
`make_crossed_attentions` combines every two values of these fields and of those that they meet.
"""

from dataclasses import replace
from functools import cache
from typing import Any

from hermes.spec import (
    BIASES,
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
from hermes_conformance.cases.covering_array import Row, make_covering_array

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
    "qk_norm=after rope": {"qk_norm": QkNorm(after_rope=True)},
    "qk_norm=each_head after rope": {
        "qk_norm": QkNorm("each_head", "layernorm", bias=True, after_rope=True),
        "position_encoding": Rope(rotary_dim=2),
    },
    "qk_norm=head layernorm bias": {"qk_norm": QkNorm("head", "layernorm", bias=True)},
    "qk_norm=flat layernorm bias": {"qk_norm": QkNorm("flat", "layernorm", bias=True)},
    "position_encoding=alibi-scaled": {"position_encoding": Alibi(scale=0.4)},
    "position_encoding=alibi-learned-scaled": {"position_encoding": Alibi("learned", 3.0)},
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

POSITION_FACTOR: dict[str, Positions] = {
    **POSITIONS,
    "rope": Rope(),
    "rope-partial": Rope(rotary_dim=2),
    "alibi-learned": Alibi("learned"),
    "none": NoPositions(),
}
# Three rotated pairs, as the lists of longrope have, need heads of 6 or more.
CROSSED_HEADS = {"4/2": (4, 2, 6), "3/3x10": (3, 3, 10), "4/1": (4, 1, 6)}
FACTORS = {
    "qk_norm": ("none", "head", "flat", *QK_NORMS),
    "positions": tuple(POSITION_FACTOR),
    "heads": tuple(CROSSED_HEADS),
    "v_head_dim": ("none", "4", "8"),
    "bias": BIASES,
    "clip_qkv": ("none", "0.8"),
    "sinks": ("no", "yes"),
    "output_gate": ("no", "yes"),
    "mask": ("causal", "window", "both"),
    "softcap": ("none", "2"),
    "dropout": ("0", "0.2"),
}


@cache
def make_crossed_attentions() -> dict[str, AttentionSpec]:
    """Attentions that combine every two values of any two factors, by the row's number."""
    rows = make_covering_array(FACTORS)
    return {f"crossed.attention {n:02d}": _make_crossed(row) for n, row in enumerate(rows)}


def _make_crossed(row: Row) -> AttentionSpec:
    heads, keys, size = CROSSED_HEADS[row["heads"]]
    positions = POSITION_FACTOR[row["positions"]]
    if isinstance(positions, Rope) and positions.rotary_dim is None:
        positions = replace(positions, rotary_dim=6)
    return AttentionSpec(
        heads,
        keys,
        size,
        bias=row["bias"],
        dropout=float(row["dropout"]),
        causal=row["mask"] != "both",
        window_size=3 if row["mask"] == "window" else None,
        position_encoding=positions,
        qk_norm=QK_NORMS.get(row["qk_norm"], row["qk_norm"]),
        softcap=None if row["softcap"] == "none" else float(row["softcap"]),
        v_head_dim=None if row["v_head_dim"] == "none" else int(row["v_head_dim"]),
        clip_qkv=None if row["clip_qkv"] == "none" else float(row["clip_qkv"]),
        sinks=row["sinks"] == "yes",
        output_gate=row["output_gate"] == "yes",
    )


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

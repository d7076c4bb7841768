"""Attentions with the fields that came after the first version of the golden folder.

`make_attentions` changes one field of attention at a time and names it by its path in a file.
"""

from hermes.spec import AttentionSpec, QkNorm

QK_NORMS = {
    "each_head": QkNorm("each_head"),
    "head layernorm": QkNorm("head", "layernorm"),
    "flat layernorm": QkNorm("flat", "layernorm"),
    "each_head layernorm": QkNorm("each_head", "layernorm"),
    "head plain": QkNorm("head", weight=False),
    "flat layernorm plain": QkNorm("flat", "layernorm", weight=False),
}


def make_attentions() -> dict[str, AttentionSpec]:
    """One attention for every value of each of these fields, the others at their defaults."""
    return {
        f"attention.qk_norm={label}": AttentionSpec(4, 2, qk_norm=norm)
        for label, norm in QK_NORMS.items()
    }

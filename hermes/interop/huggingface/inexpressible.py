"""Explains why no Hugging Face class computes a model, by the keys of MAL that prevent it.

A search: change one key, two, then three to values that classes have, until one fits.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Any

from hermes.errors import HermesError
from hermes.interop.huggingface.families import find_common_block, find_family
from hermes.model_info.shape import describe_layer, describe_model
from hermes.spec import (
    BlockSpec,
    LayerNorm,
    Learned,
    ModelSpec,
    RMSNorm,
    Rope,
    WholeBlock,
    is_whole,
)

__all__ = ["explain_inexpressible"]

MAX_CHANGES = 3
# Keys that do not matter to a class, and those in which the layers of a class may differ.
FREE = ("dropout", "attention.dropout", "ffn.dropout", "name", "attention.name", "ffn.name")
VARIES = (*FREE, "attention.window_size", "attention.position_encoding")


@dataclass(frozen=True)
class _Edit:
    """A change of one key of MAL; apply: makes the model with it."""

    key: str
    apply: Callable[[ModelSpec], ModelSpec]


def explain_inexpressible(spec: ModelSpec) -> str:
    """Explain with the fewest keys why no class computes a model, as a clause.

    spec: a model for which `find_family(spec, renamed=True)` is 'hermes'.
    """
    for part in ("attention", "ffn"):
        if any(getattr(layer, part) is None for layer in spec.layers):
            return f"no class has layers without {part}"
    if find_common_block(spec) is None:
        odd = [
            key
            for key, values in _describe_keys(spec).items()
            if len(values) > 1 and key not in VARIES
        ]
        return f"its layers differ in {', '.join(odd) or 'more than windows and positions'}"
    # One period of the pattern decides, and makes the search fast.
    few = replace(spec, num_layers=min(spec.num_layers, len(spec.blocks)))
    for size in range(1, MAX_CHANGES + 1):
        for edits in combinations(_EDITS, size):
            if len({edit.key for edit in edits}) == size and _has_family(few, edits):
                described = _describe_keys(spec)
                changed = [f"{edit.key}: {', '.join(described[edit.key])}" for edit in edits]
                return f"no class has {' with '.join(changed)} with the rest of the model"
    return f"more than {MAX_CHANGES} of its keys keep it from every class"


def _has_family(spec: ModelSpec, edits: tuple[_Edit, ...]) -> bool:
    try:
        for edit in edits:
            spec = edit.apply(spec)
    except HermesError:
        return False
    return find_family(spec, renamed=True) != "hermes"


def _describe_keys(spec: ModelSpec) -> dict[str, list[str]]:
    """Describe the values of every key in MAL; a key of layers has each different value once."""
    found: dict[str, list[str]] = {key: [text] for key, text in describe_model(spec).items()}
    for layer in spec.layers:
        for key, text in describe_layer(layer).items():
            values = found.setdefault(key, [])
            if text not in values:
                values.append(text)
    return found


def _change_blocks(change: Callable[[WholeBlock], BlockSpec]) -> Callable[[ModelSpec], ModelSpec]:
    return lambda spec: replace(
        spec, blocks=tuple(change(block) for block in spec.blocks if is_whole(block))
    )


def _edit_block(key: str, value: object) -> _Edit:
    change: dict[str, Any] = {key: value}
    return _Edit(key, _change_blocks(lambda block: replace(block, **change)))


def _edit_attention(key: str, value: object) -> _Edit:
    change: dict[str, Any] = {key: value}
    return _Edit(
        f"attention.{key}",
        _change_blocks(lambda block: replace(block, attention=replace(block.attention, **change))),
    )


def _set_gate(gate: bool) -> Callable[[WholeBlock], BlockSpec]:
    return lambda b: replace(b, ffn=replace(b.ffn, activation=b.ffn.function, gate=gate))


def _remove_limit(block: WholeBlock) -> BlockSpec:
    return replace(block, ffn=replace(block.ffn, limit=None, alpha=None))


def _set_ffn_bias(bias: bool) -> Callable[[WholeBlock], BlockSpec]:
    return lambda b: replace(b, ffn=replace(b.ffn, bias=bias))


def _rotate_whole_head(block: WholeBlock) -> BlockSpec:
    """Let RoPE rotate the whole head."""
    rope = block.attention.position_encoding
    if not isinstance(rope, Rope):
        return block
    turned = replace(rope, rotary_dim=None)
    return replace(block, attention=replace(block.attention, position_encoding=turned))


def _edit_output(key: str, value: object) -> _Edit:
    change: dict[str, Any] = {key: value}
    return _Edit(f"output.{key}", lambda spec: replace(spec, output=replace(spec.output, **change)))


def _set_embeddings(spec: ModelSpec, **fields: Any) -> ModelSpec:
    return replace(spec, embeddings=replace(spec.embeddings, **fields))


_EDITS = (
    _Edit("ffn.gate", _change_blocks(_set_gate(True))),
    _Edit("ffn.gate", _change_blocks(_set_gate(False))),
    _Edit("ffn.limit", _change_blocks(_remove_limit)),
    _Edit("ffn.bias", _change_blocks(_set_ffn_bias(False))),
    _Edit("ffn.bias", _change_blocks(_set_ffn_bias(True))),
    _edit_block("parallel", False),
    _edit_block("residual", True),
    _edit_block("residual_scale", None),
    _edit_block("shared_norm", False),
    *(_edit_block("norm_position", place) for place in ("pre", "output", "sandwich")),
    _edit_attention("causal", True),
    *(
        _edit_attention(key, None)
        for key in ("window_size", "softcap", "scale", "v_head_dim", "clip_qkv")
    ),
    *(_edit_attention(key, False) for key in ("sinks", "output_gate")),
    *(_edit_attention("bias", bias) for bias in ("none", "all", "qkv")),
    *(_edit_attention("qk_norm", kind) for kind in ("none", "head", "flat")),
    _Edit("attention.position_encoding", _change_blocks(_rotate_whole_head)),
    *(_edit_attention("position_encoding", positions) for positions in (Rope(), Learned())),
    _edit_attention("num_kv_heads", None),
    *(_edit_block("norm", norm) for norm in (RMSNorm(), LayerNorm())),
    *(
        _edit_output(key, value)
        for key, value in (("norm", None), ("bias", False), ("softcap", None), ("scale", None))
    ),
    _Edit("embeddings.norm", lambda spec: _set_embeddings(spec, norm=None)),
    _Edit("embeddings.scale", lambda spec: _set_embeddings(spec, scale=None)),
    _Edit(
        "embeddings.scale", lambda spec: _set_embeddings(spec, scale=math.sqrt(spec.hidden_size))
    ),
)

"""Reads a config.json into a specification, or refuses it with the field that MAL cannot express.

Where a file leaves a field out, the default of Hugging Face's configuration class applies.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from hermes.errors import SpecError, suggest_nearest
from hermes.interop.huggingface.families import ACTIVATIONS, build_pattern
from hermes.interop.huggingface.fields import Fields
from hermes.interop.huggingface.gpt import read_gpt2, read_gpt_neox
from hermes.interop.huggingface.rope import read_gemma3_ropes, read_rope
from hermes.mal import loads
from hermes.spec import (
    MAX_LAYERS,
    AttentionSpec,
    BlockSpec,
    EmbeddingsSpec,
    FfnSpec,
    ModelSpec,
    OutputSpec,
    Positions,
    RMSNorm,
)

__all__ = ["read_config"]

GATED = {"silu": "swiglu", "gelu": "geglu"}
# Defaults of the classes. A family that is not listed has hidden_size / num_attention_heads, and as
# many key/value heads as query heads.
HEAD_DIM = {"qwen3": 128, "gemma2": 256, "gemma3_text": 256}
KV_HEADS = {"mistral": 8, "qwen2": 32, "qwen3": 32, "gemma2": 4, "gemma3_text": 4}
MAX_LENGTH = {
    "llama": 2048,
    "mistral": 131_072,
    "qwen2": 32_768,
    "qwen3": 32_768,
    "gemma2": 8192,
    "gemma3_text": 131_072,
    "olmo2": 2048,
}
FAMILIES = (*MAX_LENGTH, "gpt2", "gpt_neox", "hermes")


def read_config(config: Mapping[str, Any]) -> ModelSpec:
    """Read a config.json into a specification.

    Raises SpecError, naming the field, where MAL cannot express the model.
    """
    family = config.get("model_type")
    if family not in FAMILIES:
        raise SpecError(
            f"config.json: 'model_type' is {family!r}; hermes reads {', '.join(FAMILIES)}"
            f"{suggest_nearest(str(family), FAMILIES)}",
            ("model_type",),
        )
    fields = Fields(config)
    match family:
        case "hermes":
            return loads(fields.take_text("mal"), file="config.json: mal")
        case "gpt2":
            return read_gpt2(fields)
        case "gpt_neox":
            return read_gpt_neox(fields)
    return _read_llama_like(fields, family)


def _read_llama_like(fields: Fields, family: str) -> ModelSpec:
    gemma = family in ("gemma2", "gemma3_text")
    layers, width = fields.take_size("num_hidden_layers"), fields.take_size("hidden_size")
    length = fields.take_size("max_position_embeddings", MAX_LENGTH[family])
    heads = fields.take_size("num_attention_heads")
    size = fields.take_size("head_dim", HEAD_DIM.get(family, max(width // heads, 1)))
    if layers > MAX_LAYERS:
        fields.refuse("num_hidden_layers", layers)
    windows = _read_windows(fields, family, layers)
    ropes = _read_ropes(fields, family, length, size, windows)
    attention = AttentionSpec(
        num_heads=heads,
        num_kv_heads=_read_kv_heads(fields, family, heads),
        head_dim=None if size * heads == width else size,
        bias=_read_bias(fields, family),
        dropout=fields.take_number("attention_dropout") or 0.0,
        qk_norm={"qwen3": "head", "gemma3_text": "head", "olmo2": "flat"}.get(family, "none"),
        softcap=_read_softcap(fields, "attn_logit_softcapping", 50.0)
        if family == "gemma2"
        else None,
        scale=_read_scale(fields, size) if gemma else None,
    )
    ffn = _read_ffn(fields, "hidden_activation" if gemma else "hidden_act", gemma)
    ffn = dataclasses.replace(ffn, bias=family == "llama" and fields.take_flag("mlp_bias", False))
    block = BlockSpec(
        attention=attention,
        ffn=ffn,
        norm=RMSNorm(fields.take("rms_norm_eps", 1e-5 if family == "olmo2" else 1e-6), gemma),
        norm_position="sandwich" if gemma else "output" if family == "olmo2" else "pre",
    )
    spec = ModelSpec(
        name=family,
        blocks=build_pattern(block, windows, ropes),
        vocab_size=fields.take_size("vocab_size"),
        max_seq_len=length,
        hidden_size=width,
        num_layers=layers,
        embeddings=EmbeddingsSpec(
            tie_weights=fields.take_flag("tie_word_embeddings", gemma),
            scale=width**0.5 if gemma else None,
        ),
        output=OutputSpec(softcap=_read_final_softcap(fields, family)),
    )
    if family != "llama":
        fields.allow_only("mlp_bias", False)
    fields.allow_only("attn_logit_softcapping")  # Gemma 3's class has this field and ignores it
    # Qwen2's class ignores attention_bias and always has biases; Gemma's ignores hidden_act.
    fields.finish({"attention_bias"} if family == "qwen2" else {"hidden_act"} if gemma else ())
    return spec


def _read_bias(fields: Fields, family: str) -> str:
    if family == "qwen2":
        return "qkv"
    if family == "mistral":
        fields.allow_only("attention_bias", False)
        return "none"
    return "all" if fields.take_flag("attention_bias", False) else "none"


def _read_scale(fields: Fields, size: int) -> float | None:
    scalar = fields.take_size("query_pre_attn_scalar", 256)
    return None if scalar == size else float(scalar**-0.5)


def _read_kv_heads(fields: Fields, family: str, heads: int) -> int:
    if "num_key_value_heads" not in fields:
        return KV_HEADS.get(family, heads)
    return fields.take_size("num_key_value_heads", heads)


def _read_softcap(fields: Fields, name: str, default: float | None) -> float | None:
    return fields.take_number(name) if name in fields else default


def _read_final_softcap(fields: Fields, family: str) -> float | None:
    cap = _read_softcap(fields, "final_logit_softcapping", 30.0 if family == "gemma2" else None)
    if cap is not None and "gemma" not in family:
        fields.refuse("final_logit_softcapping", cap)
    return cap


def _read_ffn(fields: Fields, name: str, gemma: bool) -> FfnSpec:
    act = fields.take_text(name, "gelu_pytorch_tanh" if gemma else "silu")
    if act not in ACTIVATIONS:
        fields.refuse(name, act)
    function = ACTIVATIONS[act]
    return FfnSpec(
        hidden_dim=fields.take_size("intermediate_size"),
        activation=GATED.get(function, function),
        gate=None if function in GATED else True,
    )


def _read_windows(fields: Fields, family: str, layers: int) -> list[int | None]:
    """Read the window of each layer, which every family writes in fields of its own."""
    kinds = fields.take("layer_types")
    if kinds is not None and (not isinstance(kinds, list) or len(kinds) != layers):
        fields.refuse("layer_types", kinds)
    for kind in kinds or []:
        if kind not in ("full_attention", "sliding_attention"):
            fields.refuse("layer_types", kind)
    # A missing field means the class's default, null means no window.
    given = "sliding_window" not in fields or fields.has("sliding_window")
    window = fields.take_size("sliding_window", 4096) if given else None
    fields.take("sliding_window")
    sliding = [True] * layers
    match family:
        case "mistral":
            # Mistral's class ignores layer_types, so it must not contradict sliding_window.
            if kinds and set(kinds) != {
                "full_attention" if window is None else "sliding_attention"
            }:
                fields.refuse("layer_types", kinds)
        case "qwen2" | "qwen3":
            window = window if fields.take_flag("use_sliding_window", False) else None
            first = fields.take_number("max_window_layers")
            sliding = [i >= (28 if first is None else first) for i in range(layers)]
        case "gemma2" | "gemma3_text":
            period = _read_window_period(fields, family)
            sliding = [(i + 1) % period != 0 for i in range(layers)]
        case _:
            window = None
    if kinds is not None:
        sliding = [kind == "sliding_attention" for kind in kinds]
        if any(sliding) and window is None:
            fields.refuse("layer_types", kinds)
    return [window if slides else None for slides in sliding]


def _read_window_period(fields: Fields, family: str) -> int:
    """Read the n of Gemma's older form, in which every n-th layer has full attention."""
    name = (
        "_sliding_window_pattern"
        if "_sliding_window_pattern" in fields
        else "sliding_window_pattern"
    )
    period = fields.take_size(name, 2 if family == "gemma2" else 6)
    fields.take("sliding_window_pattern")
    return period


def _read_ropes(
    fields: Fields, family: str, length: int, size: int, windows: list[int | None]
) -> list[Positions]:
    if family != "gemma3_text":
        return [read_rope(fields, length=length, size=size)] * len(windows)
    full, sliding = read_gemma3_ropes(fields, length=length, size=size)
    return [full if window is None else sliding for window in windows]

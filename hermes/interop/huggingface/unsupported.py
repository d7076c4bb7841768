"""Refuses models by the feature that MAL lacks, before any field of theirs is read."""

import re
from collections.abc import Mapping
from typing import Any, NoReturn

from hermes.errors import SpecError

__all__ = ["refuse_unknown", "refuse_unsupported"]

# Feature -> names of fields that only such models have, as a pattern.
_FEATURES = {
    "mixture of experts": r"num_local_experts|num_experts|n_routed_experts|moe_.*|ffn_config"
    r"|num_experts_per_tok|n_shared_experts|num_experts_per_token",
    "state-space layers": r"mamba_.*|ssm_.*|state_size|hybrid_override_pattern"
    r"|d_state|attn_layer_.*",
    "latent attention": r"kv_lora_rank|q_lora_rank",
    "linear attention": r"linear_num_value_heads|linear_attn_config|full_attention_interval",
    "short convolutions": r"conv_L_cache|conv_bias|short_conv.*",
    "embeddings per layer": r"hidden_size_per_layer_input|laurel_rank|altup_.*",
    "chunked attention": r"attention_chunk_size|dual_chunk_attention_config",
}
# model_types that a whole feature is told by.
_TYPES = {
    "mixture of experts": r"mixtral|.*moe.*|gpt_oss|deepseek_v\d.*|kimi.*|llama4.*|dbrx|grok.*",
    "state-space layers": r".*mamba.*|jamba|nemotron_h|falcon_h1|granitemoehybrid|zamba.*|bamba",
    "recurrent layers": r"rwkv.*|recurrent_gemma|xlstm",
    "encoder": r"t5.*|mt5|bart|mbart|pegasus.*|marian|whisper|.*encoder.*|umt5|t5gemma.*",
    "linear attention": r"qwen3_next|qwen3_5.*|minimax.*|kimi_linear",
    "short convolutions": r"lfm2.*",
    "embeddings per layer": r"gemma3n.*|gemma4.*",
    "attention in both directions from masked tokens": r"bert|roberta|.*bert.*|modernbert",
    "rotary positions in two dimensions": r"qwen2_vl.*|qwen2_5_vl.*|qwen3_vl.*|glm4v.*",
    "activation xielu": r"apertus",
    "sinusoidal positions": r"xglm|ctrl",
    "differential attention": r"diffllama",
    "norms inside a sublayer": r"bitnet",
    "scale of queries by position": r"ministral3|mistral4",
}
_WAYS_OUT = "mlx_lm.convert --dequantize, or load it in transformers and dequantize()"


def refuse_unsupported(config: Mapping[str, Any]) -> None:
    """Refuse a configuration by a feature of its model that MAL lacks. Raises SpecError."""
    refuse_quantized(config)
    kind = config.get("model_type")
    for feature, pattern in _TYPES.items():
        if isinstance(kind, str) and re.fullmatch(pattern, kind):
            _refuse(f"'model_type' is {kind!r}", feature, "model_type")
    for name, value in config.items():
        for feature, pattern in _FEATURES.items():
            if value and value != 1 and re.fullmatch(pattern, name):
                _refuse(f"{name!r} is {_shorten(value)}", feature, name)
    if config.get("position_encoding_2d"):
        what = "'position_encoding_2d' is True"
        _refuse(what, "rotary positions in two dimensions", "position_encoding_2d")
    if kind == "opt":
        _refuse_opt(config)


def _refuse_opt(config: Mapping[str, Any]) -> None:
    """Refuse what one of OPT's sizes has, 350m."""
    size = config.get("word_embed_proj_dim")
    if size is not None and size != config.get("hidden_size"):
        what = f"'word_embed_proj_dim' is {_shorten(size)}, not the hidden size"
        _refuse(what, "projections around the embedding", "word_embed_proj_dim")
    if config.get("do_layer_norm_before") is False:
        what = "'do_layer_norm_before' is False"
        _refuse(what, "norms of the residual sum", "do_layer_norm_before")


def refuse_quantized(config: Mapping[str, Any]) -> None:
    """Refuse quantized weights, with the way out. Raises SpecError."""
    for name in ("quantization_config", "quantization", "compression_config"):
        if value := config.get(name):
            method = value.get("quant_method") if isinstance(value, dict) else None
            bits = value.get("bits") if isinstance(value, dict) else None
            what = method or (f"{bits} bits" if bits else _shorten(value))
            raise SpecError(
                f"config.json: {name!r} says that the weights are quantized ({what}), and hermes "
                f"reads float weights; dequantize them first: {_WAYS_OUT}",
                (name,),
            )


def _refuse(what: str, feature: str, name: str) -> NoReturn:
    raise SpecError(
        f"config.json: {what}: MAL has no {feature}, so hermes cannot express this model", (name,)
    )


def refuse_unknown(kind: object) -> NoReturn:
    """Refuse a model_type that no row of the table has. Raises SpecError."""
    raise SpecError(
        f"config.json: 'model_type' is {kind!r}, a family that hermes has no reader for; if MAL "
        "can say its architecture, write it as a .mal file and give --config FILE.mal with weights "
        "under Llama's names",
        ("model_type",),
    )


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."

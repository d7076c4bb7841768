"""Reads the configurations of nanoGPT and litgpt into specifications."""

from collections.abc import Iterable, Mapping
from typing import Any

from hermes.interop.huggingface.fields import Fields
from hermes.interop.huggingface.layers import build_pattern
from hermes.spec import (
    MAX_LAYERS,
    AttentionSpec,
    BlockSpec,
    EmbeddingsSpec,
    FfnSpec,
    LayerNorm,
    Learned,
    LinearScaling,
    Llama3Scaling,
    ModelSpec,
    Norm,
    OutputSpec,
    RMSNorm,
    Rope,
    Scaling,
)

__all__ = ["read_litgpt", "read_nanogpt"]


def read_nanogpt(model_args: Mapping[str, Any], ignore_fields: Iterable[str] = ()) -> ModelSpec:
    """Read the `model_args` of a nanoGPT checkpoint. Raises SpecError.

    ignore_fields: unknown fields to pass over.

    The activation is the exact gelu, which nanoGPT has used since May 2023. Before that it was
    gelu_tanh, and a checkpoint does not tell which.
    """
    fields = Fields(model_args, where="model_args", ignore=ignore_fields)
    bias, rate = fields.take_flag("bias", True), fields.take_number("dropout") or 0.0
    length, width = fields.take_size("block_size"), fields.take_size("n_embd")
    block = BlockSpec(
        attention=AttentionSpec(
            num_heads=fields.take_size("n_head"),
            bias="all" if bias else "none",
            dropout=rate,
            position_encoding=Learned(),
        ),
        ffn=FfnSpec(hidden_dim=4 * width, activation="gelu", bias=bias),
        norm=LayerNorm(bias=bias),
        dropout=rate,
    )
    spec = ModelSpec(
        name="nanogpt",
        blocks=(block,),
        vocab_size=fields.take_size("vocab_size"),
        max_seq_len=length,
        hidden_size=width,
        num_layers=fields.take_size("n_layer"),
        embeddings=EmbeddingsSpec(tie_weights=True, dropout=rate),
    )
    fields.finish()
    return spec


# Fields that change nothing here: sizes that are read elsewhere, and settings of experts, which a
# model with n_expert 0 does not have.
_IGNORED = """
    name hf_config scale_embeddings vocab_size padded_vocab_size padding_multiple
    moe_intermediate_size norm_topk_prob routed_scaling_factor n_expert_per_token
"""
_HARMLESS = frozenset(_IGNORED.split())


def read_litgpt(
    config: Mapping[str, Any],
    where: str = "model_config.yaml",
    ignore_fields: Iterable[str] = (),
) -> ModelSpec:
    """Read litgpt's model_config.yaml. Raises SpecError.

    ignore_fields: unknown fields to pass over.
    """
    fields = Fields(config, where=where, ignore=ignore_fields)
    name = fields.take_text("name", "")
    gemma = "Gemma" in name  # litgpt decides the unit offset of norms by the name, too
    if "OLMo-1B" in name or "OLMo-7B" in name:
        fields.refuse("name", name)  # their LayerNorm has no weights
    layers, width, heads = (
        fields.take_size("n_layer"),
        fields.take_size("n_embd"),
        fields.take_size("n_head"),
    )
    if layers > MAX_LAYERS:
        fields.refuse("n_layer", layers)
    size = fields.take_size("head_size", max(width // heads, 1))
    everything = fields.take_flag("bias", True)
    block = BlockSpec(
        attention=AttentionSpec(
            num_heads=heads,
            num_kv_heads=fields.take_size("n_query_groups", heads),
            head_dim=None if size * heads == width else size,
            bias="all" if everything else "qkv" if fields.take_flag("attn_bias", False) else "none",
            qk_norm=_read_qk_norm(fields),
            softcap=fields.take_number("attention_logit_softcapping"),
            scale=_read_scale(fields, size),
        ),
        ffn=_read_ffn(fields, width, everything),
        norm=_read_norm(fields, gemma),
        norm_position=_read_norm_position(fields),
        parallel=fields.take_flag("parallel_residual", True),
    )
    fields.take("attn_bias")
    fields.allow_only("shared_attention_norm", False)
    rows = fields.take_size("vocab_size", 50_254)
    multiple = fields.take_size("padding_multiple", 512)
    spec = ModelSpec(
        name="litgpt",
        blocks=_read_blocks(fields, block, layers, size),
        vocab_size=fields.take_size("padded_vocab_size", -(-rows // multiple) * multiple),
        max_seq_len=fields.take_size("block_size", 4096),
        hidden_size=width,
        num_layers=layers,
        embeddings=EmbeddingsSpec(
            scale=width**0.5 if fields.take_flag("scale_embeddings", False) else None
        ),
        output=OutputSpec(
            bias=fields.take_flag("lm_head_bias", False),
            softcap=fields.take_number("final_logit_softcapping"),
        ),
    )
    fields.allow_only("n_expert", 0)
    fields.allow_only("rope_interleave", False)
    fields.finish(_HARMLESS)
    return spec


def _read_scale(fields: Fields, size: int) -> float | None:
    scalar = fields.take_size("attention_scores_scalar", size)
    return None if scalar == size else float(scalar**-0.5)


def _read_qk_norm(fields: Fields) -> str:
    kind = fields.take_text("norm_qk_type", "default")
    if kind not in ("default", "olmo2"):
        fields.refuse("norm_qk_type", kind)
    if not fields.take_flag("norm_qk", False):
        return "none"
    return "flat" if kind == "olmo2" else "head"


def _read_ffn(fields: Fields, width: int, bias: bool) -> FfnSpec:
    kind = fields.take_text("mlp_class_name", "GptNeoxMLP")
    tanh = fields.take_text("gelu_approximate", "none") == "tanh"
    size = fields.take_size("intermediate_size", 4 * width)
    match kind:
        case "LLaMAMLP":
            return FfnSpec(size, "swiglu", bias=bias)
        case "GemmaMLP":
            return FfnSpec(size, "gelu_tanh" if tanh else "geglu", gate=True, bias=bias)
        case "GptNeoxMLP":
            return FfnSpec(size, "gelu_tanh" if tanh else "gelu", bias=bias)
    fields.refuse("mlp_class_name", kind)


def _read_norm(fields: Fields, gemma: bool) -> Norm:
    kind, eps = fields.take_text("norm_class_name", "LayerNorm"), fields.take_number("norm_eps")
    eps = 1e-5 if eps is None else eps
    match kind:
        case "RMSNorm":
            return RMSNorm(eps, unit_offset=gemma)
        case "LayerNorm":
            return LayerNorm(eps)
    fields.refuse("norm_class_name", kind)


def _read_norm_position(fields: Fields) -> str:
    where = (
        fields.take_flag("norm_1", True),
        fields.take_flag("post_attention_norm", False),
        fields.take_flag("norm_2", True),
        fields.take_flag("post_mlp_norm", False),
    )
    match where:
        case (True, False, True, False):
            return "pre"
        case (False, True, False, True):
            return "output"
        case (True, True, True, True):
            return "sandwich"
    fields.refuse("post_attention_norm", where[1])


def _read_blocks(fields: Fields, block: BlockSpec, layers: int, size: int) -> tuple[BlockSpec, ...]:
    """Read the pattern of blocks: the block with each layer's window and RoPE."""
    window = fields.take_size("sliding_window_size") if fields.has("sliding_window_size") else None
    slides = _read_layer_flags(fields, "sliding_window_indices", layers)
    fields.take("sliding_window_size")
    share = fields.take_number("rotary_percentage")
    turning = int((0.25 if share is None else share) * size)
    part = None if turning == size else turning
    condensed = fields.take_size("rope_condense_ratio", 1)
    plain = LinearScaling(condensed) if condensed > 1 else None
    full = Rope(
        fields.take_number("rope_base") or 10_000.0, _read_rope_adjustments(fields, plain), part
    )
    theta = fields.take_number("rope_local_base_freq")
    local = full if theta is None else Rope(theta, plain, part)
    near = _read_layer_flags(fields, "rope_indices", layers)
    windows = [window if slide else None for slide in slides]
    return build_pattern(block, windows, [local if chosen else full for chosen in near])


def _read_layer_flags(fields: Fields, name: str, layers: int) -> list[bool]:
    """Read a list of 0 and 1 with at least an entry for each layer; missing means all 1."""
    values = fields.take(name)
    if values is None:
        return [True] * layers
    if not isinstance(values, list) or len(values) < layers or set(values) - {0, 1}:
        fields.refuse(name, values)
    return [bool(value) for value in values[:layers]]


def _read_rope_adjustments(fields: Fields, plain: LinearScaling | None) -> Scaling | None:
    values = fields.take_object("rope_adjustments")
    if not values:
        return plain
    llama3 = {"factor", "low_freq_factor", "high_freq_factor", "original_max_seq_len"}
    # MAL has neither litgpt's variant of YaRN nor two scalings at once.
    if plain is None and values.keys() == {"factor"}:
        return LinearScaling(values["factor"])
    if plain is None and values.keys() == llama3:
        return Llama3Scaling(**values)
    fields.refuse("rope_adjustments", values)

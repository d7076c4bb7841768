"""Reads the configurations of GPT-2 and GPT-NeoX, whose fields differ from Llama's."""

import dataclasses

from hermes.interop.huggingface.families import ACTIVATIONS
from hermes.interop.huggingface.fields import Fields
from hermes.interop.huggingface.rope import read_rope
from hermes.spec import (
    AttentionSpec,
    BlockSpec,
    EmbeddingsSpec,
    FfnSpec,
    LayerNorm,
    Learned,
    ModelSpec,
    Rope,
)

__all__ = ["read_gpt2", "read_gpt_neox"]

_SUMMARY = """
    reorder_and_upcast_attn summary_type summary_use_proj summary_activation
    summary_proj_to_labels summary_first_dropout
"""
GPT2_HARMLESS = frozenset(_SUMMARY.split())
GPT_NEOX_HARMLESS = frozenset(
    ("classifier_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob")
)


def read_gpt2(fields: Fields) -> ModelSpec:
    """Read GPT-2's configuration."""
    width, heads, layers = (
        fields.take_size("n_embd"),
        fields.take_size("n_head"),
        fields.take_size("n_layer"),
    )
    act = fields.take_text("activation_function", "gelu_new")
    if act not in ACTIVATIONS:
        fields.refuse("activation_function", act)
    length = fields.take_size("n_positions", 1024)
    fields.allow_only("n_ctx", length)
    scale = None if fields.take_flag("scale_attn_weights", True) else 1.0
    block = BlockSpec(
        attention=AttentionSpec(
            num_heads=heads,
            bias="all",
            dropout=_read_rate(fields, "attn_pdrop"),
            position_encoding=Learned(),
            scale=scale,
        ),
        ffn=FfnSpec(
            hidden_dim=fields.take_size("n_inner", 4 * width),
            activation=ACTIVATIONS[act],
            bias=True,
        ),
        norm=LayerNorm(fields.take("layer_norm_epsilon", 1e-5)),
        dropout=_read_rate(fields, "resid_pdrop"),
    )
    spec = ModelSpec(
        name="gpt2",
        blocks=(block,),
        vocab_size=fields.take_size("vocab_size", 50_257),
        max_seq_len=length,
        hidden_size=width,
        num_layers=layers,
        embeddings=EmbeddingsSpec(
            tie_weights=fields.take_flag("tie_word_embeddings", True),
            dropout=_read_rate(fields, "embd_pdrop"),
        ),
    )
    if fields.take_flag("scale_attn_by_inverse_layer_idx", False):
        spec = dataclasses.replace(spec, blocks=_scale_by_layer(spec))
    fields.finish(GPT2_HARMLESS)
    return spec


def _read_rate(fields: Fields, name: str) -> float:
    """Read a dropout rate, whose default in GPT-2 is 0.1."""
    rate = fields.take_number(name)
    return 0.1 if rate is None else rate


def _scale_by_layer(spec: ModelSpec) -> tuple[BlockSpec, ...]:
    """Divide the scale of layer i by i + 1, for scale_attn_by_inverse_layer_idx."""
    attention = spec.blocks[0].attention
    assert attention is not None, "every layer of GPT-2 has attention"
    return tuple(
        dataclasses.replace(
            spec.blocks[0],
            name=f"layer{i}",
            attention=dataclasses.replace(attention, scale=resolved.score_scale / (i + 1)),
        )
        for i, resolved in enumerate(spec.attentions)
    )


def read_gpt_neox(fields: Fields) -> ModelSpec:
    """Read GPT-NeoX's configuration, which is also Pythia's."""
    width, heads = fields.take_size("hidden_size"), fields.take_size("num_attention_heads")
    act = fields.take_text("hidden_act", "gelu")
    if act not in ACTIVATIONS:
        fields.refuse("hidden_act", act)
    length = fields.take_size("max_position_embeddings", 2048)
    rope = _read_neox_rope(fields, length, max(width // heads, 1))
    dropout = fields.take_number("hidden_dropout") or 0.0
    block = BlockSpec(
        attention=AttentionSpec(
            num_heads=heads,
            bias="all" if fields.take_flag("attention_bias", True) else "none",
            dropout=fields.take_number("attention_dropout") or 0.0,
            position_encoding=rope,
        ),
        ffn=FfnSpec(
            hidden_dim=fields.take_size("intermediate_size"), activation=ACTIVATIONS[act], bias=True
        ),
        norm=LayerNorm(fields.take("layer_norm_eps", 1e-5)),
        dropout=dropout,
        parallel=fields.take_flag("use_parallel_residual", True),
    )
    spec = ModelSpec(
        name="gpt_neox",
        blocks=(block,),
        vocab_size=fields.take_size("vocab_size"),
        max_seq_len=length,
        hidden_size=width,
        num_layers=fields.take_size("num_hidden_layers"),
        embeddings=EmbeddingsSpec(
            tie_weights=fields.take_flag("tie_word_embeddings", False), dropout=dropout
        ),
    )
    fields.finish(GPT_NEOX_HARMLESS)
    return spec


def _read_neox_rope(fields: Fields, length: int, size: int) -> Rope:
    """Read RoPE from NeoX's old fields and from the common ones, which must agree."""
    base, share = fields.take_number("rotary_emb_base"), fields.take_number("rotary_pct")
    if share is not None and not 0 < share <= 1:
        fields.refuse("rotary_pct", share)
    rope = read_rope(
        fields,
        length=length,
        size=size,
        theta=10_000.0 if base is None else base,
        share=0.25 if share is None else share,
    )
    if base is not None and base != rope.theta:
        fields.refuse("rotary_emb_base", base)
    if share is not None and int(share * size) != (rope.rotary_dim or size):
        fields.refuse("rotary_pct", share)
    return rope

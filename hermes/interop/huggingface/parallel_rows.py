"""Rows of the table of families: parallel blocks, ALiBi, and multipliers."""

from hermes.interop.huggingface import tensor_modules as names
from hermes.interop.huggingface.block_parts import (
    Activation,
    KvHeads,
    take_layer_norm,
    take_rms_norm,
)
from hermes.interop.huggingface.family import Family
from hermes.interop.huggingface.gpt_like import FFN_BIAS, LearnedOf, list_gpt2_parts
from hermes.interop.huggingface.llama_like import (
    BIAS_ALL,
    BIAS_FFN,
    NO_BIAS_FFN,
    PRE,
    list_rates,
    list_shape,
    list_sizes,
)
from hermes.interop.huggingface.parts import (
    Always,
    Biases,
    Choice,
    Computed,
    Number,
    Only,
    Rate,
    Size,
    Unread,
)
from hermes.interop.huggingface.position_parts import AlibiAlways, FalconPositions, RotaryDim
from hermes.interop.huggingface.rare_parts import (
    AttentionMultiplier,
    EmbeddingNorm,
    FalconHeads,
    LocalLayers,
    MptAttention,
)
from hermes.interop.huggingface.rope import RopeOf
from hermes.interop.huggingface.windows import EveryNth, NopeWithoutWindow, Windows
from hermes.spec import LayerNorm, ModelSpec, QkNorm

__all__ = ["PARALLEL_ROWS"]

PARALLEL, SHARED = Always("block.parallel", True), Always("block.shared_norm", True)
HEAD_BIAS, ALL = Always("output.bias", True), Always("attention.bias", "all")
FOUR_WIDTHS = Computed("ffn.hidden_dim", lambda draft: 4 * draft["hidden_size"])
COHERE = (
    *(PRE, PARALLEL, SHARED, take_layer_norm("layer_norm_eps", 1e-5, bias=False)),
    *(BIAS_ALL, NO_BIAS_FFN, Number("logit_scale", "output.scale", 0.0625, 1.0)),
)
GPTJ = (
    *(
        *list_gpt2_parts("gelu_new", False),
        Size("n_positions|max_position_embeddings", "max_seq_len", 2048),
    ),
    *(PARALLEL, SHARED, FFN_BIAS, HEAD_BIAS, RotaryDim(64), Only("scale_attn_weights", (True,))),
)


def has_power_of_two_heads(spec: ModelSpec) -> bool:
    """Whether the slopes of ALiBi are the same in all its definitions."""
    heads = spec.attentions[0].num_heads
    return heads & (heads - 1) == 0


PARALLEL_ROWS = (
    Family(
        "olmo",
        "OlmoForCausalLM",
        (
            *list_sizes(2048),
            *(PRE, Always("norm", LayerNorm(weight=False)), BIAS_ALL, NO_BIAS_FFN),
            *(Number("clip_qkv", "attention.clip_qkv"), RopeOf()),
        ),
    ),
    Family(
        "granite",
        "GraniteForCausalLM",
        (
            *list_sizes(2048),
            *(PRE, take_rms_norm("rms_norm_eps", 1e-6), BIAS_ALL, BIAS_FFN),
            Number("embedding_multiplier", "embeddings.scale", 1.0, 1.0),
            Number("residual_multiplier", "block.residual_scale", 1.0, 1.0),
            Number("logits_scaling", "output.scale", 1.0, 1.0, inverse=True),
            *(AttentionMultiplier(), RopeOf()),
        ),
    ),
    Family(
        "cohere",
        "CohereForCausalLM",
        (
            *(*list_sizes(8192, tied=True), *COHERE),
            Choice(
                "use_qk_norm", "attention.qk_norm", False, "none", QkNorm("each_head", "layernorm")
            ),
            RopeOf(500_000.0),
        ),
        pairs="neighbours",
        norms_by_head=True,
    ),
    Family(
        "cohere2",
        "Cohere2ForCausalLM",
        (
            *(
                *list_sizes(8192, tied=True),
                *COHERE,
                Windows(4096, EveryNth(4, written=True), always=True),
            ),
            *(RopeOf(), NopeWithoutWindow(always=True)),
            Only("use_gated_activation", (True,), written=False),
            Only("use_parallel_block", (True,), written=False),
            Only("order_of_interleaved_layers", ("local_attn_first",), written=False),
            Only("position_embedding_type", ("rope_gptj",), written=False),
            Only("rotary_pct", (1.0,), written=False),
        ),
        pairs="neighbours",
        harmless="layer_switch use_embedding_sharing use_parallel_embedding",
    ),
    Family(
        "phi",
        "PhiForCausalLM",
        (
            *list_shape(vocab=("vocab_size", 51_200), length=("max_position_embeddings", 2048)),
            *(KvHeads(), Size("intermediate_size", "ffn.hidden_dim")),
            Activation("hidden_act", "gelu_new", gated=False, gelu_tanh="gelu_new"),
            *(take_layer_norm("layer_norm_eps", 1e-5), PRE, PARALLEL, SHARED),
            *(ALL, FFN_BIAS, HEAD_BIAS, Only("qk_layernorm")),
            *list_rates("attention_dropout", "resid_pdrop", "embd_pdrop"),
            Choice("tie_word_embeddings", "embeddings.tie_weights", False),
            RopeOf(share=0.5),
        ),
        modules=names.PHI,
    ),
    Family(
        "phi-msft",
        "PhiForCausalLM",
        (
            *list_gpt2_parts("gelu_new", False),
            Size("n_positions", "max_seq_len", 2048),
            *(PARALLEL, SHARED, ALL, FFN_BIAS, HEAD_BIAS, RotaryDim(32)),
            KvHeads("n_head_kv"),
        ),
        modules=names.PHI_MSFT,
        harmless="flash_rotary fused_dense img_processor",
        writable=False,
    ),
    Family(
        "gptj",
        "GPTJForCausalLM",
        GPTJ,
        modules=names.GPTJ,
        pairs="neighbours",
        harmless="rotary",
    ),
    Family(
        "codegen",
        "CodeGenForCausalLM",
        (*GPTJ, Unread("n_ctx")),
        modules=names.CODEGEN,
        pairs="neighbours",
        accepts=lambda spec: spec.attentions[0].num_heads % 4 == 0,
    ),
    Family(
        "gpt_neo",
        "GPTNeoForCausalLM",
        (
            *list_shape(
                layers="num_layers|num_hidden_layers",
                heads="num_heads|num_attention_heads",
                vocab=("vocab_size", 50_257),
            ),
            Size("intermediate_size", "ffn.hidden_dim", lambda draft: 4 * draft["hidden_size"]),
            Activation("activation_function", "gelu_new", gated=False, gelu_tanh="gelu_new"),
            *(take_layer_norm("layer_norm_epsilon", 1e-5), PRE, FFN_BIAS),
            *(Always("attention.bias", "o"), Always("attention.scale", 1.0)),
            *list_rates("attention_dropout", "resid_dropout", "embed_dropout"),
            Choice("tie_word_embeddings", "embeddings.tie_weights", True),
            *(LearnedOf("max_position_embeddings", 2048), LocalLayers()),
        ),
        modules=names.GPT_NEO,
    ),
    Family(
        "falcon",
        "FalconForCausalLM",
        (
            *list_shape(
                layers="num_hidden_layers|n_layer",
                hidden="hidden_size|n_embed",
                heads="num_attention_heads|n_head",
                vocab=("vocab_size", 65_024),
                length=("max_position_embeddings", 2048),
            ),
            Size("ffn_hidden_size", "ffn.hidden_dim", lambda draft: 4 * draft["hidden_size"]),
            Activation("activation", "gelu", gated=False),
            *(FalconHeads(), take_layer_norm("layer_norm_epsilon", 1e-5), PRE),
            *(Biases("bias", False), FalconPositions()),
            *list_rates("attention_dropout", "hidden_dropout"),
            Choice("tie_word_embeddings", "embeddings.tie_weights", True),
        ),
        modules=names.choose_falcon,
        harmless="apply_residual_connection_post_layernorm",
    ),
    Family(
        "bloom",
        "BloomForCausalLM",
        (
            *list_shape(
                layers="n_layer|num_hidden_layers",
                hidden="hidden_size|n_embed",
                heads="n_head|num_attention_heads",
                vocab=("vocab_size", 250_880),
                length=("seq_length", 2048),
            ),
            *(FOUR_WIDTHS, Always("ffn.activation", "gelu_tanh"), AlibiAlways()),
            *(take_layer_norm("layer_norm_epsilon", 1e-5), EmbeddingNorm(), PRE, ALL, FFN_BIAS),
            *list_rates("attention_dropout", "hidden_dropout"),
            Choice("tie_word_embeddings", "embeddings.tie_weights", True),
            Only("apply_residual_connection_post_layernorm"),
        ),
        modules=names.BLOOM,
        harmless="attention_softmax_in_fp32 bias_dropout_fusion masked_softmax_fusion n_inner "
        "offset_alibi skip_bias_add skip_bias_add_qkv slow_but_exact",
    ),
    Family(
        "mpt",
        "MptForCausalLM",
        (
            *list_shape(
                layers="n_layers|num_hidden_layers",
                hidden="d_model|hidden_size",
                heads="n_heads|num_attention_heads",
                vocab=("vocab_size", 50_368),
                length=("max_seq_len", 2048),
            ),
            *(FOUR_WIDTHS, Always("ffn.activation", "gelu"), AlibiAlways(), MptAttention()),
            *(take_layer_norm("layer_norm_epsilon", 1e-5, bias=False), PRE),
            *(
                Only("no_bias", (True,)),
                Only("expansion_ratio", (4,)),
                Only("logit_scale", (None,)),
            ),
            Rate("resid_pdrop", ("block.dropout",)),
            Rate("emb_pdrop", ("embeddings.dropout",)),
            Choice("tie_word_embeddings", "embeddings.tie_weights", True),
        ),
        modules=names.MPT,
        harmless="init_config init_device learned_pos_emb embedding_fraction norm_type "
        "tokenizer_name verbose",
        accepts=has_power_of_two_heads,
    ),
)

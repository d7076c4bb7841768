"""Rows of the table of families: Llama's relatives whose tensors are fused, permuted or renamed."""

from hermes.interop.huggingface import tensor_modules as names
from hermes.interop.huggingface.block_parts import (
    Activation,
    HeadDim,
    KvHeads,
    take_layer_norm,
    take_rms_norm,
)
from hermes.interop.huggingface.family import Family
from hermes.interop.huggingface.llama_like import (
    BIAS_ALL,
    BIAS_FFN,
    NO_BIAS,
    NO_BIAS_FFN,
    PRE,
    has_even_heads,
    list_rates,
    list_shape,
    list_sizes,
)
from hermes.interop.huggingface.parts import Always, Biases, Choice, Only, Rate, Size, Unread
from hermes.interop.huggingface.position_parts import (
    BaichuanLength,
    BaichuanPositions,
    ChatGlmRope,
    FixedAlpha,
    OriginalLength,
)
from hermes.interop.huggingface.rare_parts import (
    GroupedQueries,
    MiniCpmScales,
    ParallelShared,
    QwenSizes,
)
from hermes.interop.huggingface.rope import RopeOf
from hermes.interop.huggingface.windows import WindowForAll
from hermes.spec import ModelSpec, QkNorm

__all__ = ["OTHER_ROWS"]

QKV_BIAS = Choice("attention_bias", "attention.bias", True, "none", "qkv")
# ChatGLM's flags of what 2 and 3 do not have, and of what they have.
CHATGLM_OFF = ("add_bias_linear", "apply_residual_connection_post_layernorm", "interleaved_qkv")
CHATGLM_ON = ("rmsnorm", "post_layer_norm")


def _compute_heads_width(spec: ModelSpec) -> int:
    """The width of all heads together."""
    attention = spec.attentions[0]
    return attention.num_heads * attention.head_size


OTHER_ROWS = (
    Family(
        "phi3",
        "Phi3ForCausalLM",
        (
            *list_sizes(4096),
            *(PRE, take_rms_norm("rms_norm_eps", 1e-5), NO_BIAS, NO_BIAS_FFN),
            Rate("resid_pdrop", ("block.dropout",)),
            Rate("embd_pdrop", ("embeddings.dropout",)),
            *(WindowForAll(None), OriginalLength(), RopeOf(share=1.0, longrope=True)),
        ),
        modules=names.PHI3,
        harmless="full_attn_mod interpolate_factor lm_head_bias embd_layer_norm",
    ),
    Family(
        "glm",
        "GlmForCausalLM",
        (
            *list_sizes(131_072, kv_heads=2, head_dim=128),
            *(PRE, take_rms_norm("rms_norm_eps", 1.5625e-7), QKV_BIAS, NO_BIAS_FFN),
            RopeOf(share=0.5),
        ),
        modules=names.GLM,
        pairs="neighbours",
    ),
    Family(
        "glm4",
        "Glm4ForCausalLM",
        (
            *list_sizes(131_072, kv_heads=2, head_dim=128),
            *(Always("block.norm_position", "sandwich"), take_rms_norm("rms_norm_eps", 1.5625e-7)),
            *(QKV_BIAS, NO_BIAS_FFN, RopeOf(share=0.5)),
        ),
        modules=names.GLM4,
        pairs="neighbours",
    ),
    Family(
        "chatglm",
        "ChatGLMModel",
        (
            *list_shape(
                layers="num_layers|num_hidden_layers",
                vocab=("padded_vocab_size|vocab_size", None),
                length=("seq_length", 2048),
            ),
            *(HeadDim(name="kv_channels"), GroupedQueries()),
            Size("ffn_hidden_size", "ffn.hidden_dim"),
            *(Always("ffn.activation", "swiglu"), PRE, take_rms_norm("layernorm_epsilon", 1e-5)),
            *(Choice("add_qkv_bias", "attention.bias", False, "none", "qkv"), ChatGlmRope()),
            *(Only(name, written=False) for name in CHATGLM_OFF),
            *(Only(name, (True,), written=False) for name in CHATGLM_ON),
            Choice("tie_word_embeddings", "embeddings.tie_weights", False),
            *list_rates("attention_dropout", "hidden_dropout"),
        ),
        modules=names.CHATGLM,
        pairs="neighbours",
        # A factor of scores that its code divides out again, and choices of kernels.
        harmless="apply_query_key_layer_scaling attention_softmax_in_fp32 bias_dropout_fusion "
        "fp32_residual_connection pre_seq_len prefix_projection quantization_bit",
        writable=False,
    ),
    Family(
        "helium",
        "HeliumForCausalLM",
        (
            *list_sizes(4096, kv_heads=20, head_dim=128),
            *(PRE, take_rms_norm("rms_norm_eps", 1e-8), BIAS_FFN, RopeOf(100_000.0)),
            Choice("attention_bias", "attention.bias", False, "none", "qkv"),
        ),
        pairs="neighbours",
        # Its output projection is of the hidden size, whatever head_dim says.
        accepts=lambda spec: _compute_heads_width(spec) == spec.hidden_size,
    ),
    Family(
        "hunyuan_v1_dense",
        "HunYuanDenseV1ForCausalLM",
        (
            *list_sizes(2048),
            *(PRE, take_rms_norm("rms_norm_eps", 1e-5), BIAS_ALL, NO_BIAS_FFN),
            *(Always("attention.qk_norm", QkNorm(after_rope=True)), FixedAlpha(), RopeOf()),
            *(Only("use_qk_norm", (True,), written=False), Only("use_cla", written=False)),
        ),
        modules=names.HUNYUAN,
        harmless="attention_head_dim cla_share_factor eod_token_id im_end_id im_newline_id "
        "im_start_id mask_init_id norm_type org_vocab_size sep_token_id text_end_id text_start_id "
        "add_classification_head class_num pool_type use_rotary_pos_emb position_embedding_xdrope "
        "enable_lm_head_fp32 dense_list",
    ),
    Family(
        "ernie4_5",
        "Ernie4_5ForCausalLM",
        (
            *list_sizes(131_072, kv_heads=2, head_dim=128, tied=True),
            *(PRE, take_rms_norm("rms_norm_eps", 1e-5), Biases("use_bias", False)),
            RopeOf(500_000.0),
        ),
        pairs="neighbours",
    ),
    Family(
        "baichuan",
        "BaichuanForCausalLM",
        (
            *(BaichuanLength(), *list_sizes(None)),
            *(PRE, take_rms_norm("rms_norm_eps", 1e-6), NO_BIAS, NO_BIAS_FFN),
            BaichuanPositions(),
        ),
        modules=names.BAICHUAN,
        # Baichuan 2, whose config.json tells it from the first by this alone.
        has_unit_head=lambda spec: spec.vocab_size == 125_696,
        harmless="_from_model_config gradient_checkpointing z_loss_weight",
        writable=False,
    ),
    Family(
        "internlm",
        "InternLMForCausalLM",
        (
            *list_sizes(2048),
            *(PRE, take_rms_norm("rms_norm_eps", 1e-6), NO_BIAS_FFN),
            *(Choice("bias", "attention.bias", True, "none", "all"), RopeOf()),
        ),
        writable=False,
    ),
    Family(
        "orion",
        "OrionForCausalLM",
        (
            *list_sizes(4096),
            *(PRE, take_layer_norm("rms_norm_eps", 1e-5), NO_BIAS, NO_BIAS_FFN, RopeOf()),
        ),
        harmless="max_sequence_length",
        writable=False,
    ),
    Family(
        "minicpm",
        "MiniCPMForCausalLM",
        (
            *list_sizes(32_768, tied=True),
            *(PRE, take_rms_norm("rms_norm_eps", 1e-5), NO_BIAS, NO_BIAS_FFN),
            *(MiniCpmScales(), RopeOf()),
        ),
        writable=False,
    ),
    Family(
        "internlm2",
        "InternLM2ForCausalLM",
        (
            *list_sizes(2048),
            *(PRE, take_rms_norm("rms_norm_eps", 1e-6), NO_BIAS_FFN),
            *(Choice("bias", "attention.bias", False, "none", "all"), RopeOf()),
        ),
        modules=names.INTERNLM2,
        writable=False,
    ),
    Family(
        "internlm3",
        "InternLM3ForCausalLM",
        (
            *list_sizes(32_768),
            *(PRE, take_rms_norm("rms_norm_eps", 1e-6)),
            *(Biases("bias", False), Only("qkv_bias", (False,), written=False), RopeOf()),
        ),
        writable=False,
    ),
    Family(
        "exaone",
        "ExaoneForCausalLM",
        (
            *list_shape(
                layers="num_layers|num_hidden_layers",
                vocab=("vocab_size", 102_400),
                length=("max_position_embeddings", 2048),
            ),
            KvHeads(),
            Unread("head_dim"),
            Size("intermediate_size", "ffn.hidden_dim", lambda draft: 4 * draft["hidden_size"]),
            Activation("activation_function", "silu", gated=True),
            *(PRE, take_rms_norm("layer_norm_epsilon", 1e-5)),
            Rate("attention_dropout", ("attention.dropout",)),
            Rate("embed_dropout", ("embeddings.dropout",)),
            Choice("tie_word_embeddings", "embeddings.tie_weights", False),
            RopeOf(),
        ),
        modules=names.EXAONE,
        writable=False,
    ),
    Family(
        "qwen",
        "QWenLMHeadModel",
        (
            *(*list_shape(vocab=("vocab_size", 151_936)), QwenSizes()),
            *(PRE, take_rms_norm("layer_norm_epsilon", 1e-6), Always("ffn.activation", "swiglu")),
            *(Always("attention.bias", "qkv"), Only("no_bias", (True,))),
            *(Only("scale_attn_weights", (True,)), Only("use_cache_quantization")),
            Rate("attn_dropout_prob", ("attention.dropout",)),
            Rate("emb_dropout_prob", ("embeddings.dropout",)),
            Choice("tie_word_embeddings", "embeddings.tie_weights", False),
            RopeOf(share=1.0, old_theta="rotary_emb_base", old_share="rotary_pct"),
        ),
        modules=names.QWEN,
        harmless="bf16 fp16 fp32 onnx_safe softmax_in_fp32 use_cache_kernel",
        writable=False,
    ),
    Family(
        "stablelm",
        "StableLmForCausalLM",
        (
            *list_sizes(4096, kv_heads=32),
            *(PRE, take_layer_norm("layer_norm_eps|norm_eps", 1e-5), NO_BIAS_FFN),
            Choice("use_qkv_bias", "attention.bias", False, "none", "qkv"),
            Choice(
                "qk_layernorm", "attention.qk_norm", False, "none", QkNorm("each_head", "layernorm")
            ),
            ParallelShared("use_parallel_residual"),
            Rate("hidden_dropout", ("block.dropout",)),
            RopeOf(share=0.25, old_share="rope_pct"),
        ),
        head_norms="self_attn.{name}_layernorm.norms.{head}",
        accepts=has_even_heads,
    ),
)

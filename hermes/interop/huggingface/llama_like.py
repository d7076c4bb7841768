"""Rows of the table of families: those whose files have Llama's fields and names of tensors."""

from hermes.interop.huggingface.block_parts import Activation, HeadDim, KvHeads, take_rms_norm
from hermes.interop.huggingface.family import Family
from hermes.interop.huggingface.parts import Always, Choice, Layers, Only, Part, Rate, Size, Unread
from hermes.interop.huggingface.rope import RopeOf, TwoRopes
from hermes.interop.huggingface.windows import (
    EveryNth,
    FromLayer,
    NopeLayers,
    NopeWithoutWindow,
    WindowForAll,
    WindowLetters,
    Windows,
)
from hermes.spec import ModelSpec

__all__ = [
    "BIAS_ALL",
    "BIAS_FFN",
    "HEAD_NORM",
    "LLAMA_LIKE",
    "NO_BIAS",
    "NO_BIAS_FFN",
    "OUTPUT",
    "PRE",
    "has_even_heads",
    "list_rates",
    "list_shape",
    "list_sizes",
]

# Hugging Face's flags of biases.
BIAS_ALL = Choice("attention_bias", "attention.bias", False, "none", "all")
BIAS_FFN = Choice("mlp_bias", "ffn.bias", False)
NO_BIAS, NO_BIAS_FFN = Only("attention_bias"), Only("mlp_bias")


def list_sizes(
    length: int | None,
    *,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    tied: bool = False,
    act: tuple[str, str] | None = ("hidden_act", "silu"),
    defaults: dict[str, int] | None = None,
) -> tuple[Part, ...]:
    """List the parts that all these have: sizes, heads, the head, the feed-forward network.

    length, kv_heads, head_dim, tied: the class's defaults, of length None where a file must say it,
    and those of other sizes in `defaults`.
    act: the field of the activation and its default, gated; None where a row says it itself.
    """
    usual = defaults or {}
    return (
        Layers(default=usual.get("num_hidden_layers")),
        Size("hidden_size", "hidden_size", usual.get("hidden_size")),
        Size("vocab_size", "vocab_size", usual.get("vocab_size")),
        Size("max_position_embeddings", "max_seq_len", length),
        Size("num_attention_heads", "attention.num_heads", usual.get("num_attention_heads")),
        HeadDim(head_dim),
        KvHeads(default=kv_heads),
        Size("intermediate_size", "ffn.hidden_dim", usual.get("intermediate_size")),
        *((Activation(*act, gated=True),) if act else ()),
        Rate("attention_dropout", ("attention.dropout",)),
        Choice("tie_word_embeddings", "embeddings.tie_weights", tied),
    )


def list_shape(
    *,
    layers: str = "num_hidden_layers",
    hidden: str = "hidden_size",
    heads: str = "num_attention_heads",
    vocab: tuple[str, int | None] = ("vocab_size", None),
    length: tuple[str, int] | None = None,
) -> tuple[Part, ...]:
    """List the parts of the sizes that every family has, by its names for them.

    vocab, length: name and the class's default; length is None where positions say it.
    """
    return (
        *(Layers(layers), Size(hidden, "hidden_size")),
        *(Size(heads, "attention.num_heads"), Size(vocab[0], "vocab_size", vocab[1])),
        *((Size(length[0], "max_seq_len", length[1]),) if length else ()),
    )


def list_rates(attention: str, sublayer: str, embedding: str = "") -> tuple[Part, ...]:
    """List the parts of dropout by the names of their fields, an empty one where there is none."""
    embeddings = (Rate(embedding, ("embeddings.dropout",)),) if embedding else ()
    return (
        Rate(attention, ("attention.dropout",)),
        Rate(sublayer, ("block.dropout",)),
        *embeddings,
    )


def has_even_heads(spec: ModelSpec) -> bool:
    """Whether heads divide the hidden size, without which some configurations are refused."""
    return spec.hidden_size % spec.attentions[0].num_heads == 0


PRE, OUTPUT = Always("block.norm_position", "pre"), Always("block.norm_position", "output")
HEAD_NORM, FLAT_NORM = Always("attention.qk_norm", "head"), Always("attention.qk_norm", "flat")

# In the order of preference where several compute the same.
LLAMA_LIKE = (
    Family(
        "llama",
        "LlamaForCausalLM",
        (*list_sizes(2048), PRE, take_rms_norm("rms_norm_eps", 1e-6), BIAS_ALL, BIAS_FFN, RopeOf()),
        harmless="activation",  # Falcon 3's, besides hidden_act
        accepts=has_even_heads,
    ),
    Family(
        "mistral",
        "MistralForCausalLM",
        (
            *list_sizes(131_072, kv_heads=8),
            *(PRE, take_rms_norm("rms_norm_eps", 1e-6), NO_BIAS, NO_BIAS_FFN),
            WindowForAll(4096),
            RopeOf(),
        ),
    ),
    Family(
        "qwen2",
        "Qwen2ForCausalLM",
        (
            *list_sizes(32_768, kv_heads=32),
            *(PRE, take_rms_norm("rms_norm_eps", 1e-6), Always("attention.bias", "qkv")),
            # Its class ignores attention_bias and always has biases.
            *(Unread("attention_bias", written=True), NO_BIAS_FFN),
            Windows(4096, FromLayer(28), switch=True),
            RopeOf(),
        ),
    ),
    Family(
        "qwen3",
        "Qwen3ForCausalLM",
        (
            *list_sizes(32_768, kv_heads=32, head_dim=128),
            *(PRE, take_rms_norm("rms_norm_eps", 1e-6), HEAD_NORM, BIAS_ALL, NO_BIAS_FFN),
            Windows(4096, FromLayer(28), switch=True),
            RopeOf(),
        ),
    ),
    Family(
        "olmo2",
        "Olmo2ForCausalLM",
        (
            *list_sizes(2048),
            *(OUTPUT, take_rms_norm("rms_norm_eps", 1e-5), FLAT_NORM, BIAS_ALL, NO_BIAS_FFN),
            RopeOf(old_linear=True),
        ),
    ),
    Family(
        "olmo3",
        "Olmo3ForCausalLM",
        (
            *list_sizes(2048),
            *(OUTPUT, take_rms_norm("rms_norm_eps", 1e-5), FLAT_NORM, BIAS_ALL, NO_BIAS_FFN),
            Windows(4096, EveryNth(4), always=True),
            TwoRopes(500_000.0),
        ),
    ),
    Family(
        "ministral",
        "MinistralForCausalLM",
        (
            *list_sizes(131_072, kv_heads=8),
            *(PRE, take_rms_norm("rms_norm_eps", 1e-6), NO_BIAS, NO_BIAS_FFN),
            Windows(4096, always=True),
            RopeOf(),
        ),
    ),
    Family(
        "smollm3",
        "SmolLM3ForCausalLM",
        (
            *list_sizes(32_768, kv_heads=4, tied=True),
            *(PRE, take_rms_norm("rms_norm_eps", 1e-6), BIAS_ALL, BIAS_FFN),
            Windows(None, switch=True, typed=True),
            *(RopeOf(2_000_000.0), NopeLayers()),
        ),
        harmless="max_window_layers",
        accepts=has_even_heads,
    ),
    Family(
        "exaone4",
        "Exaone4ForCausalLM",
        (
            *list_sizes(2048, kv_heads=32),
            *(OUTPUT, take_rms_norm("rms_norm_eps", 1e-5), HEAD_NORM, NO_BIAS, NO_BIAS_FFN),
            Windows(4096, WindowLetters()),
            *(RopeOf(), NopeWithoutWindow()),
        ),
    ),
    Family(
        "arcee",
        "ArceeForCausalLM",
        (
            *list_sizes(4096, act=None),
            *(PRE, take_rms_norm("rms_norm_eps", 1e-5), BIAS_ALL, BIAS_FFN),
            Activation("hidden_act", "relu2", gated=False),
            RopeOf(),
        ),
        accepts=has_even_heads,
    ),
    Family(
        "seed_oss",
        "SeedOssForCausalLM",
        (
            *list_sizes(524_288, kv_heads=8, head_dim=128),
            *(PRE, take_rms_norm("rms_norm_eps", 1e-6), BIAS_FFN),
            *(Choice("attention_bias", "attention.bias", True, "none", "qkv"),),
            *(Only("attention_out_bias"), RopeOf()),
        ),
        harmless="residual_dropout",
    ),
)

"""Rows of the table of families: feed-forward networks of relu squared, without a gate."""

from hermes.interop.huggingface import tensor_modules as names
from hermes.interop.huggingface.block_parts import Activation, KvHeads, NormOf, take_layer_norm
from hermes.interop.huggingface.draft import Draft
from hermes.interop.huggingface.family import Family
from hermes.interop.huggingface.llama_like import (
    BIAS_ALL,
    BIAS_FFN,
    PRE,
    list_rates,
    list_shape,
    list_sizes,
)
from hermes.interop.huggingface.parts import Always, Choice, Computed, Number, Size
from hermes.interop.huggingface.rope import RopeOf
from hermes.spec import LayerNorm, QkNorm, RMSNorm

__all__ = ["RELU2_ROWS"]

HEAD_NORM = QkNorm(norm="layernorm", bias=True)
RELU2 = Activation("hidden_act", "relu2", gated=False)


def _get_norm(draft: Draft) -> RMSNorm:
    norm: RMSNorm = draft["norm"]
    return norm


def take_offset_norm(name: str, default: float) -> NormOf:
    """A LayerNorm with weights 1 + w, whose eps is the field `name`."""
    return NormOf(name, default, lambda eps: LayerNorm(eps, unit_offset=True))


RELU2_ROWS = (
    Family(
        "nemotron",
        "NemotronForCausalLM",
        (
            *(*list_sizes(4096, act=None), RELU2, PRE, BIAS_ALL, BIAS_FFN),
            take_offset_norm("norm_eps|layer_norm_eps", 1e-5),
            RopeOf(share=0.5),
        ),
        harmless="kv_channels",  # head_dim once more
    ),
    Family(
        "persimmon",
        "PersimmonForCausalLM",
        (
            *list_shape(vocab=("vocab_size", 262_144), length=("max_position_embeddings", 16_384)),
            *(KvHeads(), Size("intermediate_size", "ffn.hidden_dim"), RELU2, PRE),
            *(take_layer_norm("layer_norm_eps", 1e-5), Always("attention.bias", "all")),
            *(
                Always("ffn.bias", True),
                Choice("qk_layernorm", "attention.qk_norm", True, "none", HEAD_NORM),
            ),
            *list_rates("attention_dropout", "hidden_dropout"),
            Choice("tie_word_embeddings", "embeddings.tie_weights", False),
            RopeOf(share=0.5),
        ),
        modules=names.PERSIMMON,
    ),
    Family(
        "nanochat",
        "NanoChatForCausalLM",
        (
            *(*list_sizes(2048, act=None), RELU2, PRE, BIAS_ALL),
            NormOf("rms_norm_eps", 1e-6, lambda eps: RMSNorm(eps, weight=False)),
            Computed("embeddings.norm", _get_norm),
            # After rotation there, which a norm without weights does not see.
            Always("attention.qk_norm", QkNorm(weight=False)),
            Number("final_logit_softcapping", "output.softcap", 15.0),
            RopeOf(),
        ),
        modules=names.NANOCHAT,
        pairs="swapped",  # its code turns the other way
    ),
)

"""Rows of the table of families: Gemma, whose norms are 1 + w and whose embeddings are scaled."""

from dataclasses import dataclass

from hermes.interop.huggingface import tensor_modules as names
from hermes.interop.huggingface.block_parts import Activation, take_rms_norm
from hermes.interop.huggingface.draft import Draft, View
from hermes.interop.huggingface.family import Family
from hermes.interop.huggingface.fields import Fields
from hermes.interop.huggingface.layers import find_attention_scalar
from hermes.interop.huggingface.llama_like import (
    BIAS_ALL,
    HEAD_NORM,
    NO_BIAS_FFN,
    PRE,
    has_even_heads,
    list_sizes,
)
from hermes.interop.huggingface.parts import Always, Config, Number, Only, Unfit, Unread
from hermes.interop.huggingface.rope import RopeOf, TwoRopes
from hermes.interop.huggingface.windows import EveryNth, Windows

__all__ = ["GEMMA_LIKE"]


@dataclass(frozen=True)
class RootScale:
    """Embeddings times sqrt(C)."""

    def read(self, fields: Fields, draft: Draft) -> None:
        """Set the scale; the hidden size must have been read."""
        draft["embeddings.scale"] = draft["hidden_size"] ** 0.5

    def write(self, view: View) -> Config:
        """Write nothing."""
        return {}


@dataclass(frozen=True)
class QueryScalar:
    """Scores over the root of query_pre_attn_scalar, which is 256 in the classes."""

    def read(self, fields: Fields, draft: Draft) -> None:
        """Read it; None in MAL where it is the size of a head."""
        scalar = fields.take_size("query_pre_attn_scalar", 256)
        same = scalar == draft.head_size
        draft["attention.scale"] = None if same else float(scalar**-0.5)

    def write(self, view: View) -> Config:
        """Write it, where it is a whole number."""
        scalar = find_attention_scalar(view.block.attention)
        if scalar is None:
            raise Unfit(f"attention.scale is {view.block.attention.score_scale}")
        return {"query_pre_attn_scalar": scalar}


SANDWICH = Always("block.norm_position", "sandwich")
NORM = take_rms_norm("rms_norm_eps", 1e-6, unit_offset=True)
ACT = ("hidden_activation", "gelu_pytorch_tanh")
# The published wrappers of Gemma 3 leave out what the class has as its default.
GEMMA3_SIZES = {
    "vocab_size": 262_208,
    "hidden_size": 2304,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "intermediate_size": 9216,
}
_COMMON = (RootScale(), BIAS_ALL, NO_BIAS_FFN, NORM)

GEMMA_LIKE = (
    Family(
        "gemma",
        "GemmaForCausalLM",
        (
            *list_sizes(8192, kv_heads=16, head_dim=256, tied=True, act=None),
            # Its first files say gelu, which every release of the class reads as gelu_tanh.
            Activation("hidden_act", ACT[1], gated=True, meanings={"gelu": "gelu_tanh"}),
            Only("hidden_activation", (ACT[1],), written=False),
            *(*_COMMON, PRE, RopeOf()),
        ),
    ),
    Family(
        "gemma2",
        "Gemma2ForCausalLM",
        (
            *list_sizes(8192, kv_heads=4, head_dim=256, tied=True, act=ACT),
            *(*_COMMON, SANDWICH, QueryScalar(), Unread("hidden_act")),
            Number("attn_logit_softcapping", "attention.softcap", 50.0),
            Number("final_logit_softcapping", "output.softcap", 30.0),
            *(Windows(4096, EveryNth(2), always=True), RopeOf()),
        ),
        accepts=has_even_heads,
    ),
    Family(
        "vaultgemma",
        "VaultGemmaForCausalLM",
        (
            *list_sizes(8192, kv_heads=4, head_dim=256, tied=True, act=ACT),
            *(*_COMMON, PRE, QueryScalar(), Unread("hidden_act")),
            Number("attn_logit_softcapping", "attention.softcap", 50.0),
            Number("final_logit_softcapping", "output.softcap", 30.0),
            *(Windows(4096, EveryNth(2), always=True), RopeOf()),
        ),
        modules=names.VAULTGEMMA,
        accepts=has_even_heads,
    ),
    Family(
        "gemma3_text",
        "Gemma3ForCausalLM",
        (
            *list_sizes(
                131_072, kv_heads=4, head_dim=256, tied=True, act=ACT, defaults=GEMMA3_SIZES
            ),
            *(*_COMMON, SANDWICH, QueryScalar(), HEAD_NORM, Unread("hidden_act")),
            # Its class has this field and ignores it.
            Only("attn_logit_softcapping", (None,)),
            Number("final_logit_softcapping", "output.softcap"),
            Windows(4096, EveryNth(6, written=True), always=True),
            TwoRopes(1_000_000.0, 10_000.0, "rope_local_base_freq"),
        ),
        accepts=has_even_heads,
    ),
)

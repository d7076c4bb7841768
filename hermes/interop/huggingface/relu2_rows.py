"""Rows of the table of families: feed-forward networks of relu squared, without a gate."""

from hermes.interop.huggingface import tensor_modules as names
from hermes.interop.huggingface.draft import Draft
from hermes.interop.huggingface.family import Family
from hermes.interop.huggingface.llama_like import BIAS_ALL, PRE, list_sizes
from hermes.interop.huggingface.parts import Activation, Always, Computed, NormOf, Number
from hermes.interop.huggingface.rope import RopeOf
from hermes.spec import QkNorm, RMSNorm

__all__ = ["RELU2_ROWS"]

RELU2 = Activation("hidden_act", "relu2", gated=False)


def _get_norm(draft: Draft) -> RMSNorm:
    norm: RMSNorm = draft["norm"]
    return norm


RELU2_ROWS = (
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

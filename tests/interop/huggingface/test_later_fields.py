"""Fields of attention that the classes lack make a model hermes's own, named in the reason."""

import pytest

from hermes.interop.huggingface.families import find_family
from hermes.interop.huggingface.inexpressible import explain_inexpressible
from hermes.spec import DynamicScaling, LongRopeScaling, QkNorm, YarnScaling
from tests.interop.models import GEMMA3, GPT2, GPT_NEOX, LLAMA, OLMO2, QWEN3, change, rope

FIELDS = {
    "qk_norm each_head": {"qk_norm": QkNorm("each_head")},
    "qk_norm layernorm": {"qk_norm": QkNorm("head", "layernorm")},
    "qk_norm flat plain": {"qk_norm": QkNorm("flat", weight=False)},
    "yarn attention_factor": rope(YarnScaling(4.0, 64, 4.0, 1.0, attention_factor=1.0)),
    "yarn truncate": rope(YarnScaling(4.0, 64, 4.0, 1.0, truncate=False)),
    "longrope": {**rope(LongRopeScaling((1.0,), (2.0,), 16), rotary_dim=2)},
    "clip_qkv": {"clip_qkv": 8.0},
    "v_head_dim": {"v_head_dim": 6},
    "sinks": {"sinks": True},
    "output_gate": {"output_gate": True},
    "bias o": {"bias": "o"},
    "dynamic": rope(DynamicScaling(2.0, 16)),
}
FAMILIES = {
    "llama": LLAMA,
    "qwen3": QWEN3,
    "olmo2": OLMO2,
    "gemma3_text": GEMMA3,
    "gpt2": GPT2,
    "gpt_neox": GPT_NEOX,
}


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("family", FAMILIES)
def test_no_class_is_given_a_model_with_a_field_that_it_lacks(family, fields):
    assert find_family(FAMILIES[family], renamed=True) == family
    spec = change(FAMILIES[family], attention=fields)
    assert find_family(spec, renamed=True) == "hermes"
    (key,) = fields
    assert f"attention.{key}: " in explain_inexpressible(spec)

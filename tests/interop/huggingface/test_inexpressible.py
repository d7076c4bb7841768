"""The reason why no class computes a model names the fewest keys of MAL."""

import dataclasses

import pytest

from hermes.interop.huggingface.inexpressible import explain_inexpressible
from hermes.interop.huggingface.reader_support import judge_readers
from hermes.spec import Alibi, EmbeddingsSpec, OutputSpec, RMSNorm
from tests.interop.models import GPT_NEOX, LLAMA, change


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (
            change(LLAMA, ffn={"activation": "gelu", "gate": False}),
            "no class has ffn.gate: false with the rest of the model",
        ),
        (
            change(LLAMA, attention={"position_encoding": Alibi()}),
            "no class has attention.position_encoding: alibi { slopes: fixed } with the rest of "
            "the model",
        ),
        (
            change(LLAMA, attention={"causal": False}, residual=False),
            "no class has residual: false with attention.causal: false with the rest of the model",
        ),
        (
            change(LLAMA, residual_scale=0.22),
            "no class has residual_scale: 0.22 with the rest of the model",
        ),
        (
            dataclasses.replace(LLAMA, output=OutputSpec(scale=0.125)),
            "no class has output.scale: 0.125 with the rest of the model",
        ),
        (
            dataclasses.replace(LLAMA, embeddings=EmbeddingsSpec(norm=RMSNorm())),
            "no class has embeddings.norm: rmsnorm { eps: 1e-5  unit_offset: false  weight: true } "
            "with the rest of the model",
        ),
        (
            change(GPT_NEOX, shared_norm=True),
            "no class has shared_norm: true with the rest of the model",
        ),
        (
            change(LLAMA, ffn={"limit": 7.0, "alpha": 1.702}),
            "no class has ffn.limit: 7 with the rest of the model",
        ),
        (
            change(LLAMA, norm=RMSNorm(weight=False)),
            "no class has norm: rmsnorm { eps: 1e-5  unit_offset: false  weight: false } with the "
            "rest of the model",
        ),
        (
            dataclasses.replace(LLAMA, blocks=(dataclasses.replace(LLAMA.blocks[0], ffn=None),)),
            "no class has layers without ffn",
        ),
        (
            dataclasses.replace(
                LLAMA,
                blocks=(*LLAMA.blocks, dataclasses.replace(LLAMA.blocks[0], attention=None)),
            ),
            "no class has layers without attention",
        ),
        (
            dataclasses.replace(
                LLAMA, blocks=(LLAMA.blocks[0], *change(LLAMA, ffn={"hidden_dim": 40}).blocks)
            ),
            "its layers differ in ffn.hidden_dim",
        ),
    ],
    ids=[
        *("ffn", "positions", "two", "residual scale", "logits scale", "embeddings' norm"),
        *("shared norm", "clamped swiglu", "no weight", "no ffn", "no attention", "layers"),
    ],
)
def test_the_keys_that_no_class_has_are_named(spec, reason):
    assert explain_inexpressible(spec) == reason
    assert (
        judge_readers(spec)[0][1]
        == judge_readers(spec, converted=True)[2][1]
        == f"not expressible: {reason}"
    )

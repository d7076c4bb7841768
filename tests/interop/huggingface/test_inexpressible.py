"""The reason why no class computes a model names the fewest keys of MAL."""

import dataclasses

import pytest

from hermes.interop.huggingface.inexpressible import explain_inexpressible
from hermes.interop.huggingface.reader_support import judge_readers
from hermes.spec import Alibi
from tests.interop.models import LLAMA, change


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
            dataclasses.replace(
                LLAMA, blocks=(LLAMA.blocks[0], *change(LLAMA, ffn={"hidden_dim": 40}).blocks)
            ),
            "its layers differ in ffn.hidden_dim",
        ),
    ],
    ids=["ffn", "positions", "two", "layers"],
)
def test_the_keys_that_no_class_has_are_named(spec, reason):
    assert explain_inexpressible(spec) == reason
    assert (
        judge_readers(spec)[0][1]
        == judge_readers(spec, converted=True)[2][1]
        == f"not expressible: {reason}"
    )

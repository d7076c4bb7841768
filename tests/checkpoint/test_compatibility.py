"""Checkpoints of another model, and tokenizers that do not fit."""

import dataclasses
import json
from pathlib import Path

import pytest

from hermes.checkpoint import (
    Companions,
    open_checkpoint,
    require_model,
    save,
)
from hermes.errors import CheckpointError
from hermes.spec import AttentionSpec, BlockSpec
from tests.checkpoint.support import (
    SPEC,
    progress_at,
    state_at,
)


def test_a_checkpoint_of_another_model_is_refused_by_its_first_difference():
    def refusal(**changes):
        with pytest.raises(CheckpointError) as caught:
            require_model(Path("c"), SPEC, dataclasses.replace(SPEC, **changes), "do so")
        return str(caught.value).removesuffix("; do so")

    start = "checkpoint c was written for another model: "
    assert refusal(num_layers=24) == start + "num_layers 1 there, 24 here"
    assert refusal(vocab_size=13) == start + "vocab_size 12 there, 13 here"
    block = dataclasses.replace(SPEC.blocks[0], attention=AttentionSpec(num_heads=1))
    found = refusal(blocks=(block,))
    assert found == start + "layers.0.attention.num_heads 2 there, 1 here"
    assert "layers.0.norm.eps 1e-05 there, 1e-06 here" in refusal(
        blocks=(dataclasses.replace(SPEC.blocks[0], norm=type(SPEC.blocks[0].norm)(eps=1e-6)),)
    )


def test_another_spelling_of_the_model_is_the_same_model():
    attention = AttentionSpec(num_heads=2, num_kv_heads=2, head_dim=2, name="other")
    block = BlockSpec(attention, SPEC.blocks[0].ffn, name="x")
    require_model(Path("c"), SPEC, dataclasses.replace(SPEC, blocks=(block,), name="y"), "")


@pytest.mark.parametrize(
    "tokenizer",
    [
        {"model": {"type": "BPE", "vocab": {"a": 0, "b": 12}}, "added_tokens": []},
        {"model": {"type": "BPE", "vocab": {"a": 0}}, "added_tokens": [{"id": 12}]},
        {"model": {"type": "Unigram", "vocab": [["a", 0.0]] * 13}},
    ],
)
def test_a_tokenizer_that_does_not_fit_is_refused_with_both_sizes(tmp_path, tokenizer):
    companions = Companions(tokenizer_json=json.dumps(tokenizer))
    path = save(tmp_path, state_at(1), spec=SPEC, progress=progress_at(1), companions=companions)
    with pytest.raises(CheckpointError) as caught:
        open_checkpoint(path).tokenizer_json  # noqa: B018
    assert str(caught.value) == (
        f"{path / 'tokenizer.json'} has 13 tokens, but the model's vocab_size is 12; "
        "use the tokenizer that it was trained with"
    )


@pytest.mark.parametrize("text", ["{}", "[]", '{"model": 5}', '{"model": {"vocab": {"a": "b"}}}'])
def test_a_tokenizer_that_is_none_is_refused(tmp_path, text):
    companions = Companions(tokenizer_json=text)
    path = save(tmp_path, state_at(1), spec=SPEC, progress=progress_at(1), companions=companions)
    with pytest.raises(CheckpointError, match=r"tokenizer.json is not a tokenizer.json"):
        open_checkpoint(path).tokenizer_json  # noqa: B018

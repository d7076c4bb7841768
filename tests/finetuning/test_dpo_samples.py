"""Samples while dpo trains are answers by the template, as in sft; of plain text, continuations."""

import pytest

import hermes
from hermes.finetuning.base_model import open_base_model
from hermes.training.samples import read_samples
from tests.finetuning.support import small_checkpoint, some_pairs, write_lines


@pytest.mark.parametrize("plain", [False, True])
def test_a_sample_of_dpo_follows_what_training_has_before_an_answer(tmp_path, plain):
    base = small_checkpoint(tmp_path)
    data = write_lines(tmp_path / "pairs.jsonl", some_pairs())
    run = tmp_path / "run"
    hermes.dpo(
        base, data, output=run, no_template=plain, backend="torch", max_steps=1,
        batch_size=2, sample_every=1, sample_prompt="the cat", sample_tokens=5, seed=3,
    )  # fmt: skip
    (sample,) = read_samples(run)
    model = hermes.load(run, backend="torch")
    encoder = open_base_model(run, train=False).encoder
    ids = encoder.encode_message("the cat") if not plain else model.encode("the cat")
    text = model.tokenizer.decode([*model.tokens(ids, max_tokens=5, seed=3)])
    assert sample["text"] == text
    other = model.encode("the cat") if not plain else encoder.encode_message("the cat")
    assert text != model.tokenizer.decode([*model.tokens(other, max_tokens=5, seed=3)])

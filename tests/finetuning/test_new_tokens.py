"""Tokens that a template writes and no training ever touched: found, named, set to the mean."""

import re

import numpy as np
import pytest

import hermes
from hermes.chat_templates.template import Template
from hermes.checkpoint import Progress, save
from hermes.finetuning.base_model import add_special_tokens, open_base_model
from hermes.finetuning.new_tokens import find_new_rows, find_written_ids
from hermes.interface import TrainState
from hermes.interop.companions import make_companions
from hermes.numerics.params import init_weights
from hermes.recipe import Recipe
from hermes.tokenizer import Tokenizer, build_tokenizer_config, train_tokenizer
from tests.finetuning.support import TEXT, small_spec, small_tokenizer

EMBED, HEAD = "model.embed_tokens.weight", "lm_head.weight"
CHAT = ("<|im_start|>", "<|im_end|>")
NO_CHAT = train_tokenizer([TEXT] * 9, vocab_size=280, special_tokens=["<|eos|>"])


def make_base(folder, tokenizer=None, *, change=lambda weights: None, rows=300, tied=False):
    """A checkpoint with a template, of weights that `change` has changed."""
    tokenizer = tokenizer or small_tokenizer()
    spec = small_spec(tied=tied, vocab_size=rows)
    weights = {name: np.array(weight) for name, weight in init_weights(spec, 0).items()}
    change(weights)
    beside = make_companions(spec, tokenizer, build_tokenizer_config(tokenizer))
    state = TrainState(weights, weights, weights, 1)
    progress = Progress(run="a" * 16, step=1, recipe=Recipe())
    save(folder, state, spec=spec, progress=progress, companions=beside)
    return weights


def ids_of(*names, tokenizer=None):
    return [(tokenizer or small_tokenizer()).find_special_id(name) for name in names]


def set_rows(ids, values, names=(EMBED, HEAD)):
    def change(weights):
        for name in names:
            if name in weights:
                weights[name][ids] = values

    return change


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("value", [0.0, 1e-23, 0.3], ids=["zero", "decayed", "all equal"])
def test_untrained_rows_of_the_chat_tokens_start_at_the_mean_of_the_others(tmp_path, value, tied):
    ids = ids_of(*CHAT)
    weights = make_base(tmp_path, change=set_rows(ids, value), tied=tied)
    start = open_base_model(tmp_path)
    assert start.notes == (
        "the model was never trained on <|im_start|>, <|im_end|>: their rows start at the mean of "
        "the others",
    )
    assert start.new_ids == tuple(sorted(ids))
    for name in (EMBED,) if tied else (EMBED, HEAD):
        others = np.delete(weights[name], ids, axis=0)
        mean = np.tile(others.astype(np.float64).mean(axis=0), (2, 1))
        np.testing.assert_allclose(start.params[name][ids], mean, atol=1e-8)
        np.testing.assert_array_equal(np.delete(start.params[name], ids, axis=0), others)


def test_a_row_that_only_the_head_lacks_is_set_there_alone(tmp_path):
    (end,) = ids_of("<|im_end|>")
    weights = make_base(tmp_path, change=set_rows([end], 0.0, [HEAD]))
    start = open_base_model(tmp_path)
    assert start.new_ids == (end,)
    np.testing.assert_array_equal(start.params[EMBED], weights[EMBED])
    assert start.params[HEAD][end].any()


@pytest.mark.parametrize("value", [0.0, None], ids=["zero", "drawn and never trained"])
def test_chat_tokens_that_land_in_spare_rows_are_new(tmp_path, value):
    """Vocabularies padded to a multiple of 64 have such rows."""
    ids = [280, 281]
    change = set_rows(slice(280, None), value) if value is not None else lambda weights: None
    weights = make_base(tmp_path, NO_CHAT, change=change, rows=320)
    start = open_base_model(tmp_path)
    assert start.spec.vocab_size == 320
    assert start.notes[1:] == (
        "the tokenizer gets the tokens <|im_start|>, <|im_end|>",
        "the model was never trained on <|im_start|>, <|im_end|>: their rows start at the mean of "
        "the others",
    )
    assert start.new_ids == (280, 281)
    for name in (EMBED, HEAD):
        mean = weights[name][:280].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(start.params[name][ids], np.tile(mean, (2, 1)), atol=1e-8)
        np.testing.assert_array_equal(start.params[name][282:], weights[name][282:])


def test_the_note_on_rows_that_no_text_uses_counts_the_chat_tokens_out(tmp_path):
    make_base(tmp_path, NO_CHAT, rows=320)
    notes = open_base_model(tmp_path, tokenizer=NO_CHAT).notes
    assert (
        "the tokenizer given has 282 tokens, and the model rows for 38 more, which stay as they "
        "are and which no text uses"
    ) in notes
    assert not any("no text uses" in note for note in open_base_model(tmp_path).notes)


def test_more_new_tokens_than_spare_rows_start_at_the_same_mean(tmp_path):
    weights = make_base(tmp_path, NO_CHAT, rows=281, change=set_rows([280], 0.0))
    start = open_base_model(tmp_path)
    assert (start.spec.vocab_size, start.new_ids) == (282, (280, 281))
    for name in (EMBED, HEAD):
        mean = weights[name][:280].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(start.params[name][280:], np.tile(mean, (2, 1)), atol=1e-8)


def test_a_chat_token_whose_id_was_another_token_is_new(tmp_path):
    make_base(tmp_path, train_tokenizer([TEXT] * 9, vocab_size=300, special_tokens=["<|eos|>"]))
    other = train_tokenizer([TEXT] * 9, vocab_size=300, special_tokens=["<|eos|>", *CHAT])
    assert set(ids_of(*CHAT, tokenizer=other)) <= set(
        open_base_model(tmp_path, tokenizer=other).new_ids
    )


def test_a_trained_model_has_no_new_tokens_and_keeps_its_weights(tmp_path):
    weights = make_base(tmp_path)
    start = open_base_model(tmp_path)
    assert (start.new_ids, start.notes) == ((), ())
    np.testing.assert_array_equal(start.params[EMBED], weights[EMBED])


def test_chat_leaves_the_weights_alone_and_says_what_they_never_learnt(tmp_path):
    weights = make_base(tmp_path, change=set_rows(ids_of(*CHAT), 0.0))
    with pytest.warns(UserWarning, match=r"^the model was never trained on <\|im_st.*, <\|im_end"):
        hermes.chat(tmp_path, backend="numpy", precision="float64")
    start = open_base_model(tmp_path, train=False)
    np.testing.assert_array_equal(start.params[EMBED], weights[EMBED])


def test_names_that_a_template_puts_together_are_found():
    tokenizer, _ = add_special_tokens(small_tokenizer(), ["<|user|>", "<|assistant|>", "<|end|>"])
    source = (
        "{% for m in messages %}{{ '<|' + m.role + '|>' }}{{ m.content }}{{ eot_token }}"
        "{% endfor %}{% if tools %}<|im_start|>{% endif %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )
    template = Template(source, names={"eot_token": "<|end|>", "unk_token": "<|im_end|>"})
    found = find_written_ids(tokenizer, template)
    names = {tokenizer.get_token_bytes(i).decode() for i in found}
    assert names == {"<|user|>", "<|assistant|>", "<|end|>", "<|im_start|>", "<|eos|>"}


def test_a_token_of_the_template_that_the_model_has_learnt_is_not_new(tmp_path):
    make_base(tmp_path, change=set_rows(ids_of("<|im_end|>"), 0.0))
    assert open_base_model(tmp_path).new_ids == tuple(ids_of("<|im_end|>"))
    assert open_base_model(tmp_path, chat=False).new_ids == ()


def make_base_without_a_row(folder, *, special=True):
    """A checkpoint whose tokenizer's last token has no row, as Gemma 3's <image_soft_token>."""
    tokenizer, _ = add_special_tokens(small_tokenizer(), ["<image>"])
    if not special:
        tokenizer = Tokenizer.from_json(
            re.sub(r'("content": "<image>".*?"special": )true', r"\1false", tokenizer.to_json(),
                   flags=re.DOTALL)
        )  # fmt: skip
    make_base(folder, tokenizer, rows=tokenizer.vocab_size - 1)
    return tokenizer.vocab_size - 1


def test_a_special_token_that_nothing_writes_needs_no_row(tmp_path):
    rows = make_base_without_a_row(tmp_path)
    start = open_base_model(tmp_path)
    assert start.spec.vocab_size == len(start.params[EMBED]) == rows
    assert start.new_ids == ()
    assert start.notes == (
        "<image> of the tokenizer has no row in the model: it is never made, and no text may have "
        "it",
    )


@pytest.mark.parametrize("why", ["message", "template", "text", "file"])
def test_a_token_without_a_row_gets_one_where_template_or_data_need_it(tmp_path, why):
    rows = make_base_without_a_row(tmp_path, special=why != "text")
    template = Template("{{ messages[0].content }}<image>", names={})
    given = {
        "message": {"message_tokens": ["<image>"]},
        "template": {"template": template},
        "text": {},
        "file": {"tokenizer": add_special_tokens(open_base_model(tmp_path).tokenizer, ["<b>"])[0]},
    }[why]
    start = open_base_model(tmp_path, **given)
    assert start.spec.vocab_size == len(start.params[EMBED]) == rows + (2 if why == "file" else 1)
    assert start.new_ids == (rows + 1 if why == "file" else rows,)


def test_a_model_without_a_row_of_a_token_chats_is_finetuned_and_opened_again(tmp_path):
    rows = make_base_without_a_row(tmp_path / "base")
    with pytest.warns(UserWarning, match="^<image> of the tokenizer has no row"):
        talk = hermes.chat(tmp_path / "base", backend="numpy", max_tokens=2, precision="float64")
    assert "<image>" not in "".join(talk.say("To be"))
    (tmp_path / "said.jsonl").write_text('{"prompt": "To be", "completion": " or not"}\n' * 4)
    hermes.sft(
        *(tmp_path / "base", tmp_path / "said.jsonl"),
        output=tmp_path / "run",
        backend="torch",
        device="cpu",
        max_steps=1,
        seq_len=32,
        batch_size=2,
    )
    assert open_base_model(tmp_path / "run").spec.vocab_size == rows
    assert hermes.load(tmp_path / "run").tokenizer.vocab_size == rows + 1


@pytest.mark.parametrize(("trained", "found"), [(True, {}), (False, {EMBED: (5, 6), HEAD: (5, 6)})])
def test_rows_of_a_head_that_were_never_targets_are_equal_and_yet_trained(trained, found):
    """A role's header is read and never predicted: its rows of the head have one gradient."""
    embeddings, head = (np.random.default_rng(n).normal(size=(9, 8)) for n in (1, 2))
    head[6] = head[5]
    if not trained:
        embeddings[6] = embeddings[5]
    assert find_new_rows({EMBED: embeddings, HEAD: head}, (5, 6, 7), ()) == found

"""Hugging Face's tokenizers, opened from the same folders, give the same ids and the same text."""

import json
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.tokenizer import Tokenizer, build_tokenizer_config, train_tokenizer
from hermes.tokenizer.tokenizer_json import make_template
from tests.tokenizer.foreign import WORDS, make_kinds

transformers = pytest.importorskip("transformers", reason="pip install 'hermes-llm[interop-test]'")

BITS = st.sampled_from([*"abc the \n\t.é日ﬁ🦄1234'", "  ", " quick", "tokens", "words", "\n\n"])
TEXTS = st.lists(BITS, max_size=14).map("".join)
KINDS = ("llama 2", "mistral 0.3", "gemma", "t5", "unigram with bytes", "byte-level", "llama 3")


def make_json(kind):
    if kind not in ("byte-level", "llama 3"):
        return make_kinds()[kind]
    names = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    config = json.loads(train_tokenizer([WORDS], vocab_size=380, special_tokens=names).to_json())
    if kind == "llama 3":
        config["post_processor"] = make_template("<|begin_of_text|>", 0)
    return json.dumps(config)


@cache
def open_both(kind, folder):
    """The tokenizer as hermes opens a folder, and as transformers does."""
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(make_json(kind))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(folder)
    return Tokenizer.load(folder), theirs


@pytest.mark.parametrize("kind", KINDS)
def test_a_text_begins_and_is_split_as_transformers_does_it(kind, tmp_path_factory):
    own, theirs = open_both(kind, tmp_path_factory.getbasetemp() / f"tokenizer-{kind}")
    assert own.adds_bos == (kind != "byte-level")

    @settings(max_examples=300, deadline=None)
    @given(text=TEXTS)
    def compare(text):
        ids = own.encode(text)
        assert ids == theirs.encode(text, add_special_tokens=False)
        assert own.beginning + ids == theirs.encode(text)
        decoded = theirs.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        assert own.decode(ids) == decoded

    compare()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("bos", [True, False])
def test_what_hermes_writes_begins_a_text_there_as_it_does_here(kind, bos, tmp_path):
    own = Tokenizer.from_json(make_json(kind)).replace_roles(bos=bos)
    own.save(tmp_path / "tokenizer.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(build_tokenizer_config(own)))
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert theirs.encode(WORDS) == own.beginning + own.encode(WORDS)
    assert (theirs.bos_token_id, theirs.eos_token_id) == (own.bos_id, own.eos_id)
    assert Tokenizer.load(tmp_path).adds_bos is bos


def test_a_trained_vocabulary_of_characters_opens_there(tmp_path):
    for model_type, byte_fallback in (("bpe", True), ("unigram", True), ("unigram", False)):
        own = train_tokenizer(
            [WORDS], vocab_size=400, model_type=model_type, byte_fallback=byte_fallback
        )
        own.save(tmp_path / "tokenizer.json")
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(build_tokenizer_config(own)))
        theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
        for text in (WORDS, "the quick\n\n  tokens", "naïve 日本語"):
            assert theirs.encode(text) == own.encode(text)
            assert theirs.decode(own.encode(text)) == own.decode(own.encode(text))

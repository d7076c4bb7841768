"""Tokenizers of other models' kinds encode and decode as the library that made them does."""

import json
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.errors import DataError
from hermes.tokenizer import Tokenizer, train_tokenizer
from tests.tokenizer.foreign import WORDS, make_kinds

KINDS = ("llama 2", "mistral 0.3", "gemma", "t5", "unigram with bytes", "xlnet")
EXACT = ("llama 2", "gemma")
BITS = st.sampled_from(
    [
        *"abc theTH \n\t.,;é日ﬁ🦄\u0301\x00\u200b",
        "  ",
        " the",
        " quick",
        "tokens",
        "\n\n",
        "▁",
        "words",
    ]
)
TEXTS = st.one_of(
    st.lists(BITS, max_size=14).map("".join), st.text(st.characters(codec="utf-8"), max_size=20)
)
# Names that the library itself finds in a text, where hermes does not.
NAMES = ("<s>", "</s>", "<unk>", "<0x")


@cache
def load(kind):
    """The tokenizer, and the library's own object of the same file."""
    from tokenizers import Tokenizer as Library

    text = make_kinds()[kind]
    library = Library.from_str(text)
    library.encode_special_tokens = True
    return Tokenizer.from_json(text), library


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_ids_and_text_are_the_librarys(kind, text):
    own, library = load(kind)
    if any(name in text for name in NAMES):
        return
    ids = own.encode(text)
    assert ids == library.encode(text, add_special_tokens=False).ids
    assert own.decode(ids) == library.decode(ids)


@pytest.mark.parametrize("kind", EXACT)
@settings(max_examples=300, deadline=None)
@given(text=TEXTS)
def test_every_text_without_the_letter_for_a_space_comes_back(kind, text):
    own, _ = load(kind)
    text = text.replace("▁", "")
    assert own.decode(own.encode(text)) == text


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_a_stream_is_what_decoding_all_at_once_gives(kind, text):
    own, _ = load(kind)
    ids = own.encode(text)
    for continued in (False, True):
        stream = own.stream(continued=continued)
        pieces = [stream.push(token) for token in ids]
        assert "".join(pieces) + stream.flush() == own.decode(ids, continued=continued)
        assert "".join(map(stream.push, ids)) + stream.flush() == own.decode(
            ids, continued=continued
        )


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_the_name_of_a_special_token_in_a_text_is_text(kind, text):
    """Unigram's own trie has <s> and <0x0A> in it, and would find them in any text."""
    own, _ = load(kind)
    named = own.encode(f"{text}</s> <s>{text}")
    assert not set(named) & (own.special_ids - {own.find_id("<unk>")})
    if "Unigram" not in own.kind or "bytes" in kind:
        assert own.decode(named, continued=True).count("</s> <s>") >= 1


@pytest.mark.parametrize("kind", ["llama 2", "unigram with bytes"])
def test_the_name_of_a_byte_token_in_a_text_is_text(kind):
    own, _ = load(kind)
    ids = own.encode("a<0x0A>b")
    assert own.find_id("<0x0A>") not in ids
    assert own.decode(ids) == "a<0x0A>b"
    assert own.find_id("<0x0A>") in own.encode("a\nb")


@pytest.mark.parametrize("kind", KINDS)
def test_a_continuation_keeps_its_space_and_gets_none(kind):
    own, _ = load(kind)
    prompt = own.encode("the quick")
    more = own.encode(" tokens", continued=True)
    assert own.decode(more, continued=True) == " tokens"
    assert prompt + more == own.encode("the quick tokens")
    assert own.decode(prompt + more) == "the quick tokens"
    if kind != "xlnet":  # it marks the beginning of every word
        assert own.decode(own.encode("ens", continued=True), continued=True) == "ens"


@pytest.mark.parametrize("kind", KINDS)
def test_the_parts_of_a_text_are_its_tokens(kind):
    """As the library has them where no token crosses from one part into the next."""
    own, _ = load(kind)
    parts = ["<s>the quick", " tokens", "</s><s>", "words are", " made</s>"]
    encoded = own.encode_parts(parts, [True] * 5)
    from tokenizers import Tokenizer as Library

    whole = Library.from_str(make_kinds()[kind]).encode("".join(parts), add_special_tokens=False)
    assert [token for ids in encoded for token in ids] == whole.ids


def test_byte_lengths_count_the_text_without_the_mark_of_its_beginning():
    for kind in EXACT:
        own, _ = load(kind)
        eos = own.eos_id
        documents = [WORDS, "é and 日", " two"]
        ids = [token for text in documents for token in (*own.encode(text), eos)]
        assert own.count_bytes(ids) == sum(len(text.encode()) for text in documents)


def test_count_bytes_counts_what_it_is_told_to():
    own, _ = load("llama 2")
    ids = own.encode("the quick tokens")
    for i in range(len(ids)):
        counted = [number >= i for number in range(len(ids))]
        text = own.decode(ids[i:], continued=i > 0)
        assert own.count_bytes(np.array(ids), np.array(counted)) == len(text.encode())


def test_what_does_not_come_back_is_said():
    assert train_tokenizer([WORDS], vocab_size=300).losses == ()
    llama, _ = load("llama 2")
    assert llama.losses == (
        "the tokenizer does not give back every text: the letter for a space ('a▁b' becomes 'a b')",
    )
    mistral, _ = load("mistral 0.3")
    assert "a space at the beginning (' a' becomes 'a')" in mistral.losses[0]
    t5, _ = load("t5")
    for said in ("ligatures ('ﬁ' becomes 'fi')", "several spaces", "rare characters"):
        assert said in t5.losses[0]


def test_a_byte_level_tokenizer_that_adds_a_space_says_so(tokenizer):
    whole = json.loads(tokenizer.to_json())
    whole["pre_tokenizer"]["pretokenizers"][-1]["add_prefix_space"] = True
    found = Tokenizer.from_json(json.dumps(whole))
    assert "the beginning of a text ('a' becomes ' a')" in found.losses[0]
    assert found.encode("a", continued=True) == tokenizer.encode("a")


@pytest.mark.parametrize(
    ("edit", "found"),
    [
        (lambda c: c["model"].update(type="WordPiece"), "its model is WordPiece"),
        (lambda c: c["model"].update(type="WordLevel"), "its model is WordLevel"),
        (
            lambda c: c["model"].update(end_of_word_suffix="</w>"),
            "its model has end_of_word_suffix '</w>'",
        ),
        (lambda c: c.update(decoder={"type": "WordPiece"}), "it is BPE with the decoder WordPiece"),
        (
            lambda c: c.update(decoder=None),
            "it is BPE without a decoder that gives spaces back",
        ),
        (
            lambda c: c["decoder"]["decoders"][3].update(start=2),
            "it is BPE with the decoder Strip",
        ),
    ],
)
def test_other_kinds_are_refused_by_name(edit, found):
    config = json.loads(make_kinds()["llama 2"])
    edit(config)
    with pytest.raises(DataError) as error:
        Tokenizer.from_json(json.dumps(config))
    assert str(error.value) == (
        f"tokenizer: not a tokenizer that hermes reads: {found}; it reads byte-level BPE, and "
        "SentencePiece's BPE and Unigram, with or without byte fallback"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[" * 200_000,
            "tokenizer: not a tokenizer.json: lists and objects are nested",
        ),
        (
            '{"model": {"vocab": {"a": 1' + "0" * 5000 + "}}}",
            "tokenizer: not a tokenizer.json: a number has too many",
        ),
        (
            '{"model": {"vocab": {"a": "b"}}}',
            "tokenizer: not a tokenizer.json: its vocabulary is d",
        ),
        (
            '{"model": {"vocab": [1, 2]}}',
            "tokenizer: not a tokenizer.json: its vocabulary is damag",
        ),
        ('{"model": {"vocab": {"a": 2147483648}}}', "tokenizer: a token has id 2147483648; hermes"),
    ],
)
def test_a_damaged_file_is_refused_in_one_line(text, message):
    with pytest.raises(DataError) as error:
        Tokenizer.from_json(text)
    assert str(error.value).startswith(message)


def test_a_tokenizer_that_the_library_panics_over_is_refused(tokenizer):
    whole = json.loads(make_kinds()["llama 2"])
    whole["model"]["merges"] = [["a", "no such"]]
    with pytest.raises(DataError, match=r"^tokenizer: tokenizers [0-9.]+ cannot read it: "):
        Tokenizer.from_json(json.dumps(whole))


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_loaded_it_is_the_same(kind, tmp_path):
    own, _ = load(kind)
    own.save(tmp_path / "tokenizer.json")
    again = Tokenizer.load(tmp_path)
    assert again.fingerprint == own.fingerprint
    assert again.to_json() == own.to_json()
    assert again.encode(WORDS) == own.encode(WORDS)


def test_the_fingerprints_of_kinds_differ():
    assert len({load(kind)[0].fingerprint for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("merges", [["x"], [None], {"type": "ByteLevel"}, None])
def test_a_model_without_its_type_is_no_other_kind_than_it_is_taken_for(merges):
    """The Rust side took one for WordLevel where it could be no BPE."""
    config = json.loads(make_kinds()["llama 2"])
    known = Tokenizer.from_json(json.dumps(config)).fingerprint
    del config["model"]["type"]
    assert Tokenizer.from_json(json.dumps(config)).fingerprint == known
    config["model"]["merges"] = merges
    with pytest.raises(DataError, match="cannot read it"):
        Tokenizer.from_json(json.dumps(config))

"""Every text comes back, in whole or as a stream, and nothing is silent."""

import json

import pytest

from hermes.errors import DataError
from hermes.tokenizer import Tokenizer, train_tokenizer
from hermes.tokenizer.bytelevel import PRESETS
from tests.tokenizer.support import TEXT

AWKWARD = [
    "",
    " ",
    "   ",
    "\n",
    "\n\n\n",
    "\r\n \r",
    "a",
    " leading and trailing ",
    "tabs\t\tand\x0bvertical\x0c",
    "\x00\x01\x1f\x7f\x80\x9f",
    "naïve Straße Ελλάδα русский עברית العربية हिन्दी ไทย 한국어 日本語",
    "e\u0301 is not é",
    "👩‍👩‍👧‍👦🏳️‍🌈 🇩🇪 \U0010ffff",
    "\u2028\u2029\u00a0\u200b\ufeff\ufffd",
    "١٢٣ ½ ² Ⅷ",
    "<|eos|> </s> <|im_start|>user",
    "I'M we'LL don’t",
    "a" * 3000,
    "".join(map(chr, range(0x20, 0x250))),
]


@pytest.mark.parametrize("text", [*AWKWARD, TEXT], ids=range(len(AWKWARD) + 1))
def test_every_text_comes_back(preset, text):
    assert preset.decode(preset.encode(text)) == text


def test_every_character_of_the_first_planes_comes_back(tokenizer):
    text = "".join(chr(c) for c in range(0x20000) if not 0xD800 <= c <= 0xDFFF)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_all_bytes_have_a_token_even_if_the_text_has_none_of_them(tokenizer):
    assert {tokenizer.get_token_bytes(i) for i in range(5, 261)} == {bytes([b]) for b in range(256)}


PUBLISHED = {
    "gpt-2": r"""'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+""",
    "llama-bpe": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p"
    "{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
    "qwen2": "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}"
    "]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+",
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_is_the_published_expression(name):
    written = json.loads(train_tokenizer([TEXT], vocab_size=300, preset=name).to_json())
    stage = written["pre_tokenizer"]
    assert PRESETS[name] == PUBLISHED[name]
    if name == "gpt-2":
        assert (stage["type"], stage["use_regex"]) == ("ByteLevel", True)
        assert stage["add_prefix_space"] is False
    else:
        split, byte_level = stage["pretokenizers"]
        assert split["pattern"] == {"Regex": PUBLISHED[name]}
        assert (split["type"], split["behavior"], split["invert"]) == ("Split", "Isolated", False)
        assert (byte_level["type"], byte_level["use_regex"]) == ("ByteLevel", False)
        assert byte_level["add_prefix_space"] is False


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-2", ["I", "'", "M", " don", "'t", " 12345", "\n\n", "\n", "x", " .", "\n ", " y"]),
        (
            "llama-bpe",
            ["I", "'M", " don", "'t", " ", "123", "45", "\n\n\n", "x", " .\n", " ", " y"],
        ),
        ("qwen2", ["I", "'M", " don", "'t", " ", *"12345", "\n\n\n", "x", " .\n", " ", " y"]),
    ],
)
def test_a_preset_splits_as_its_models_do(name, expected):
    """Worked out by hand; with one merge of everything a pre-token is a token."""
    text = "I'M don't 12345\n\n\nx .\n  y"
    trained = train_tokenizer([text] * 3, vocab_size=380, preset=name)
    ids = trained.encode(text)
    assert [trained.get_token_bytes(i).decode() for i in ids] == expected


def test_special_tokens_have_names_and_ids_of_their_own(tokenizer):
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 1, 2)
    assert tokenizer.find_special_id("<|im_start|>") == 3
    assert tokenizer.stop_ids == {1, 4}
    assert tokenizer.special_ids == {0, 1, 2, 3, 4}
    assert tokenizer.vocab_size == 380


def test_the_name_of_a_special_token_in_a_text_is_text(tokenizer):
    """Or anyone whose text is trained on could end a document, or a turn of a chat."""
    assert not set(tokenizer.encode("say <|eos|> and <|im_end|>")) & tokenizer.special_ids


def test_special_tokens_are_found_when_asked_for(tokenizer):
    ids = tokenizer.encode("<|im_start|>user\nhi<|im_end|>", special=True)
    assert (ids[0], ids[-1]) == (3, 4)
    assert tokenizer.decode(ids) == "user\nhi"
    assert tokenizer.decode(ids, skip_special=False) == "<|im_start|>user\nhi<|im_end|>"


def test_a_batch_is_encoded_as_its_texts_are(tokenizer):
    assert tokenizer.encode_batch(AWKWARD) == [tokenizer.encode(text) for text in AWKWARD]


def test_the_stream_gives_whole_characters_only(tokenizer):
    text = "naïve 👩‍👩‍👧 日本"
    decoder, shown = tokenizer.stream(), []
    for token in tokenizer.encode(text):
        shown.append(decoder.push(token))
        assert "\ufffd" not in shown[-1]
    assert "" in shown  # some token ended within a character
    assert "".join(shown) + decoder.flush() == text


def test_a_torn_character_at_the_end_of_a_stream_is_marked_once(tokenizer):
    decoder = tokenizer.stream()
    assert decoder.push(tokenizer.encode("é")[0]) == ""
    assert decoder.flush() == "\ufffd"
    assert decoder.flush() == ""
    assert decoder.push(tokenizer.encode("a")[0]) == "a"


def test_byte_lengths_count_the_text_and_no_special_token(tokenizer):
    ids = tokenizer.encode(TEXT)
    assert tokenizer.byte_lengths[ids].sum() == len(TEXT.encode())
    assert tokenizer.byte_lengths[:5].tolist() == [0] * 5
    assert tokenizer.byte_lengths.shape == (380,)


@pytest.mark.parametrize("token", [-1, 380])
def test_an_id_outside_the_vocabulary_is_refused(tokenizer, token):
    with pytest.raises(DataError, match=f"^token id {token} is not in the tokenizer's vocabulary"):
        tokenizer.decode([token])


def test_half_a_surrogate_pair_is_refused(tokenizer):
    with pytest.raises(DataError, match=r"^the text has U\+D83D, half of a surrogate pair"):
        tokenizer.encode("a \ud83d b")
    with pytest.raises(DataError, match=r"^the text has U\+DE00, half of a surrogate pair"):
        train_tokenizer(["abc \ude00"], vocab_size=300)


def test_nothing_is_normalised_unless_asked(tokenizer):
    assert json.loads(tokenizer.to_json())["normalizer"] is None


def test_nfc_is_written_in_the_tokenizer():
    trained = train_tokenizer([TEXT], vocab_size=380, normalize_nfc=True)
    again = Tokenizer.from_json(trained.to_json())
    assert again.decode(again.encode("e\u0301 カ\u3099")) == "é ガ"


def test_folding_writes_latin_in_ascii_and_leaves_other_scripts():
    trained = train_tokenizer([TEXT], vocab_size=300, fold_ascii=True)
    again = Tokenizer.from_json(trained.to_json())

    def folded(text):
        return again.decode(again.encode(text))

    assert folded("“Ça va?” — naïve Straße, Ærø ǿ ế e\u0301 ﬁn…") == (
        '"Ca va?" - naive Strasse, AEro o e e fin...'
    )
    for kept in ("हिन्दी がぎ 한국어 שָׁלוֹם Ё й", "№ ¼ ™ ＡＢ <>[]^-\\", "\r\n\t\u200b"):
        assert folded(kept) == kept

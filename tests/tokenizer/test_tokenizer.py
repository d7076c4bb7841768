"""Tokenizers: what they encode comes back; they are saved, loaded, and refused when damaged."""

import json

import numpy as np
import pytest

from hermes.errors import DataError, StorageError
from hermes.tokenizer import Tokenizer, build_tokenizer_config, train_tokenizer
from tests.tokenizer.support import TEXT


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path):
    tokenizer.save(tmp_path / "tokenizer.json")
    for path in (tmp_path, tmp_path / "tokenizer.json", str(tmp_path)):
        loaded = Tokenizer.load(path)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.to_json() == tokenizer.to_json()
    assert [p.name for p in tmp_path.iterdir()] == ["tokenizer.json"]


def test_the_fingerprint_knows_what_changes_ids(tokenizer):
    def fingerprint(**settings):
        return train_tokenizer([TEXT], **{"vocab_size": 380} | settings).fingerprint

    others = {
        fingerprint(vocab_size=379),
        fingerprint(preset="qwen2"),
        fingerprint(normalize_nfc=True),
        fingerprint(special_tokens=["<|bos|>", "<|eos|>"]),
    }
    assert tokenizer.fingerprint == fingerprint()
    assert len(others - {tokenizer.fingerprint}) == 4


def test_the_fingerprint_does_not_know_how_the_file_is_written(tokenizer):
    whole = json.loads(tokenizer.to_json())
    whole["model"]["merges"] = [" ".join(pair) for pair in whole["model"]["merges"]]
    whole["truncation"] = None
    again = Tokenizer.from_json(json.dumps(dict(reversed(whole.items()))))
    assert again.fingerprint == tokenizer.fingerprint


def test_a_missing_tokenizer_names_the_ways_to_one(tmp_path):
    with pytest.raises(DataError) as error:
        Tokenizer.load(tmp_path / "t.json")
    assert str(error.value) == (
        f"{tmp_path}/t.json: no such tokenizer; make one with 'hermes train-tokenizer', or while "
        "training with --train-tokenizer"
    )


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "t.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(DataError, match=r"t.json: not UTF-8 at byte 7, so it is not a tokenizer$"):
        Tokenizer.load(tmp_path / "t.json")


def test_an_unwritable_place_is_a_storage_error(tokenizer, tmp_path):
    with pytest.raises(StorageError, match=r"^cannot write .*/none/t.json: no such file"):
        tokenizer.save(tmp_path / "none" / "t.json")


@pytest.mark.parametrize(
    ("names", "bos", "eos", "pad"),
    [
        (["<s>", "</s>", "<pad>"], 0, 1, 2),
        (["<|endoftext|>"], 0, 0, None),
        (["<|begin_of_text|>", "<|end_of_text|>"], 0, 1, None),
        (["<|endoftext|>", "<|bos|>", "<|eos|>"], 1, 2, None),
        (["<unk>"], None, None, None),
    ],
)
def test_the_tokens_of_other_tokenizers_are_found_by_name(names, bos, eos, pad):
    found = train_tokenizer([TEXT], vocab_size=300, special_tokens=names)
    assert (found.bos_id, found.eos_id, found.pad_id) == (bos, eos, pad)


def test_the_configuration_for_hugging_face(tokenizer):
    config = build_tokenizer_config(tokenizer, max_seq_len=512)
    chat = config.pop("chat_template")
    assert config == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": 512,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": False,
        "add_eos_token": False,
        "bos_token": "<|bos|>",
        "eos_token": "<|eos|>",
        "pad_token": "<|pad|>",
    }
    jinja2 = pytest.importorskip("jinja2")
    messages = [{"role": "user", "content": "hi"}]
    shown = jinja2.Template(chat).render(messages=messages, add_generation_prompt=True)
    assert shown == "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"


def test_a_tokenizer_without_chat_markers_has_no_chat_template():
    plain = train_tokenizer([TEXT], vocab_size=300, special_tokens=["<|eos|>"])
    assert set(build_tokenizer_config(plain)) & {"chat_template", "bos_token", "pad_token"} == set()


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


def test_arrays_of_ids_are_those_of_the_lists(tokenizer):
    flags = [number % 3 == 1 for number in range(len(AWKWARD))]
    for continued in ([], flags):
        found = tokenizer.encode_to_arrays(AWKWARD, continued)
        assert all(ids.dtype == np.uint32 for ids in found)
        lists = tokenizer.encode_batch(AWKWARD, continued=continued)
        assert [ids.tolist() for ids in found] == lists
    assert tokenizer.encode_to_arrays([]) == []


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


@pytest.mark.parametrize("wrong", [5, None, b"bytes", ["a"]])
def test_what_is_no_text_is_not_encoded(tokenizer, wrong):
    with pytest.raises(DataError) as refused:
        tokenizer.encode(wrong)
    assert str(refused.value) == f"encode takes a text, encode_batch a list; got {wrong!r}"
    with pytest.raises(DataError, match=r"encode_batch a list; got 'abc'$"):
        tokenizer.encode_batch("abc")


@pytest.mark.parametrize("wrong", ["abc", "55", 5, [1.5], [None], [[1, 2]], ["7"]])
def test_what_are_no_ids_are_not_decoded(tokenizer, wrong):
    """A half was taken for the whole number below it."""
    with pytest.raises(DataError) as refused:
        tokenizer.decode(wrong)
    expected = f"tokens are given by their ids, whole numbers; got {wrong!r}"
    assert str(refused.value) == expected


def test_ids_are_decoded_whatever_array_they_are_in(tokenizer):
    ids = tokenizer.encode("the cat")
    for given in (tuple(ids), iter(ids), np.array(ids, np.uint16), [float(one) for one in ids]):
        assert tokenizer.decode(given) == "the cat"

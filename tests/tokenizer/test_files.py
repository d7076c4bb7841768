"""Tokenizers in files: ours, others', and damaged ones."""

import json
import re

import pytest

from hermes.errors import DataError, StorageError
from hermes.tokenizer import Tokenizer, build_tokenizer_config, train_tokenizer
from hermes.tokenizer.bytelevel import BYTE_CHARACTERS
from tests.tokenizer.support import TEXT


def edited(tokenizer, **stages):
    return json.dumps(json.loads(tokenizer.to_json()) | stages)


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model":\n oops', r":2:2: not JSON \(Expecting value\); a tokenizer.json of Hugging"),
        ("[]", ": not a tokenizer.json: it has no model with a vocabulary"),
        ('{"model": {"type": "BPE"}}', ": not a tokenizer.json: it has no model with a vocab"),
        (
            '{"model": {"type": "Unigram", "vocab": []}, "pre_tokenizer": {"type": "Metaspace"}}',
            r": not a byte-level BPE tokenizer \(it is Unigram, Metaspace\), so some text would",
        ),
    ],
)
def test_a_file_that_is_no_byte_level_tokenizer_is_refused(tmp_path, text, message):
    file = tmp_path / "t.json"
    file.write_text(text)
    with pytest.raises(DataError, match="^" + re.escape(str(file)) + message):
        Tokenizer.load(file)


def test_a_tokenizer_without_byte_level_stages_is_refused(tokenizer):
    for stage in ("pre_tokenizer", "decoder"):
        with pytest.raises(DataError, match="not a byte-level BPE tokenizer"):
            Tokenizer.from_json(edited(tokenizer, **{stage: None}))


def test_a_tokenizer_that_lacks_bytes_is_refused(tokenizer):
    whole = json.loads(tokenizer.to_json())
    del whole["model"]["vocab"][BYTE_CHARACTERS[0]]
    with pytest.raises(DataError, match=r"^tokenizer: 1 of the 256 bytes have no token"):
        Tokenizer.from_json(json.dumps(whole))


def test_a_damaged_model_is_refused_in_one_line(tokenizer):
    whole = json.loads(tokenizer.to_json())
    whole["model"]["merges"][0] = ["no such", "tokens"]
    with pytest.raises(DataError, match=r"^tokenizer: tokenizers [0-9.]+ cannot read it: "):
        Tokenizer.from_json(json.dumps(whole))


def test_a_file_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / "t.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(DataError, match=r"t.json: not UTF-8 at byte 7, so it is not a tokenizer$"):
        Tokenizer.load(tmp_path / "t.json")


def test_a_truncating_tokenizer_does_not_truncate(tokenizer):
    limit = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<|pad|>",
    }  # fmt: skip
    loaded = Tokenizer.from_json(edited(tokenizer, truncation=limit, padding=padding))
    assert loaded.encode("a") == tokenizer.encode("a")
    assert loaded.encode(TEXT, special=True) == tokenizer.encode(TEXT)


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

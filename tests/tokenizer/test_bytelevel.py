"""Byte-level BPE: presets, normalizers, and where text may be cut."""

import json
import re

import pytest

from hermes.data import (
    tokenize,
)
from hermes.data.document_reader import Document
from hermes.errors import DataError
from hermes.tokenizer import Tokenizer, train_tokenizer
from hermes.tokenizer.bytelevel import BYTE_CHARACTERS, PRESETS, split_text
from tests.tokenizer.support import TEXT, edited

WORDS = "Ein Wort, zwei  Wörter.\n\n  Drei!\nvier fünf\r\nsechs 日本語 "


@pytest.mark.parametrize("size", [1, 2, 7, 30, 10_000])
def test_pieces_make_up_the_text_and_are_bounded(size):
    text = WORDS * 20
    blocks = [text[i : i + 13] for i in range(0, len(text), 13)]
    cut = list(split_text(blocks, size))
    assert "".join(cut) == text
    assert max(map(len, cut)) <= 2 * size
    assert min(map(len, cut[:-1]), default=size) >= size


def test_a_text_without_a_seam_is_cut_all_the_same():
    assert [len(piece) for piece in split_text(["x" * 100], 10)] == [20, 20, 20, 20, 20]


SEAMS = "a b  c\n\n  d.\ne\n/f\n g\t h 1 2 'll 've\r\ni - 日本 語\n\nk ?! x\n...\n\u00a0l \u0301m "


@pytest.mark.parametrize("preset", ["gpt-2", "llama-bpe", "qwen2"])
@pytest.mark.parametrize("size", [20, 33, 50])
def test_the_pieces_of_a_text_have_the_tokens_of_the_whole(preset, size):
    text = (SEAMS + TEXT) * 10
    tokenizer = train_tokenizer([text], vocab_size=330, preset=preset)
    parts = [Document(piece, "a.txt", 1, more=True) for piece in split_text([text], size)]
    with tokenize([*parts, Document(" end", "a.txt", 9)], tokenizer) as stream:
        assert stream.tokens.tolist() == [*tokenizer.encode(text + " end"), 1]


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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"model":\n oops', r":2:2: not JSON \(expecting value\); a tokenizer.json of Hugging"),
        ("[]", ": not a tokenizer.json: it has no model with a vocabulary"),
        ('{"model": {"type": "BPE"}}', ": not a tokenizer.json: it has no model with a vocab"),
        (
            '{"model": {"type": "Unigram", "vocab": []}, "pre_tokenizer": {"type": "Metaspace"}}',
            r": not a tokenizer that hermes reads: it is Unigram without a decoder that gives ",
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
        with pytest.raises(DataError, match="not a tokenizer that hermes reads: it is BPE"):
            Tokenizer.from_json(edited(tokenizer, **{stage: None}))


def without_bytes(tokenizer, numbers):
    whole = json.loads(tokenizer.to_json())
    for number in numbers:
        del whole["model"]["vocab"][BYTE_CHARACTERS[number]]
    return Tokenizer.from_json(json.dumps(whole))


def test_bytes_that_utf8_never_has_are_not_missed(tokenizer):
    """The tokenizer of GPT-NeoX, which OLMo and Pythia share, lacks these 13."""
    found = without_bytes(tokenizer, (0xC0, 0xC1, *range(0xF5, 0x100)))
    assert found.losses == ()
    everything = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x110000, 97))))
    assert found.decode(found.encode(everything)) == everything


def test_a_tokenizer_that_lacks_bytes_names_them(tokenizer):
    found = without_bytes(tokenizer, (0, 0xF0))
    assert found.losses[0] == (
        "the tokenizer has no token for the bytes 00, F0, so characters with them are left out of "
        "a text"
    )
    assert "rare characters" in found.losses[1]


def test_a_damaged_model_is_refused_in_one_line(tokenizer):
    whole = json.loads(tokenizer.to_json())
    whole["model"]["merges"][0] = ["no such", "tokens"]
    with pytest.raises(DataError, match=r"^tokenizer: tokenizers [0-9.]+ cannot read it: "):
        Tokenizer.from_json(json.dumps(whole))


def test_a_truncating_tokenizer_does_not_truncate(tokenizer):
    limit = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    padding = {
        "strategy": {"Fixed": 9}, "direction": "Right", "pad_to_multiple_of": None,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<|pad|>",
    }  # fmt: skip
    loaded = Tokenizer.from_json(edited(tokenizer, truncation=limit, padding=padding))
    assert loaded.encode("a") == tokenizer.encode("a")
    assert loaded.encode(TEXT, special=True) == tokenizer.encode(TEXT)

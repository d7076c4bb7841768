"""The tokenizer: every text comes back, equal input gives equal files, and nothing is silent."""

import json
import re
import subprocess
import sys

import pytest

from hermes.data.bytelevel import BYTE_CHARACTERS, PRESETS, pieces
from hermes.data.vocabulary import MOST_SAMPLE_BYTES, manifest
from hermes.errors import DataError, StorageError
from hermes.tokenizer import Tokenizer, tokenizer_config, train_tokenizer

TEXT = (
    "the quick brown fox jumps over the lazy dog; the dog doesn't mind.\n\n"
    "In 1984 there were 12345 foxes,  and two  spaces\tand a tab.\r\n"
    "  def f(x):\n    return x + 1\n\n\n"
    "À la carte — “quoted” naïve café, Straße, 日本語のテキスト。\n"
) * 3

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


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT], vocab_size=380)


@pytest.fixture(scope="module", params=list(PRESETS))
def preset(request):
    return train_tokenizer([TEXT], vocab_size=380, preset=request.param)


@pytest.mark.parametrize("text", [*AWKWARD, TEXT], ids=range(len(AWKWARD) + 1))
def test_every_text_comes_back(preset, text):
    assert preset.decode(preset.encode(text)) == text


def test_every_character_of_the_first_planes_comes_back(tokenizer):
    text = "".join(chr(c) for c in range(0x20000) if not 0xD800 <= c <= 0xDFFF)
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_all_bytes_have_a_token_even_if_the_text_has_none_of_them(tokenizer):
    assert {tokenizer.token_bytes(i) for i in range(5, 261)} == {bytes([b]) for b in range(256)}


def test_training_shortens_its_text(tokenizer):
    assert len(tokenizer.encode(TEXT)) < len(TEXT.encode()) / 2


# As published: GPT-2's encoder.py, and tokenizer.json of Meta-Llama-3-8B and Qwen2-7B.
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
    assert [trained.token_bytes(i).decode() for i in ids] == expected


def test_training_twice_gives_the_same_file_in_another_process(preset):
    code = (
        "import sys\nfrom hermes.tokenizer import train_tokenizer\n"
        "text, name = sys.stdin.read(), sys.argv[1]\n"
        "print(train_tokenizer([text], vocab_size=380, preset=name).fingerprint)"
    )
    name = preset.training.settings.preset
    done = subprocess.run(
        [sys.executable, "-c", code, name],
        input=TEXT.replace("\r\n", "\n").encode(),
        capture_output=True,
        check=True,
    )
    here = train_tokenizer([TEXT.replace("\r\n", "\n")], vocab_size=380, preset=name)
    assert done.stdout.decode().strip() == here.fingerprint


def test_how_the_text_is_cut_does_not_change_the_tokenizer(preset):
    cut = train_tokenizer(
        pieces([TEXT], 20), vocab_size=380, preset=preset.training.settings.preset
    )
    assert cut.to_json() == preset.to_json()


def test_special_tokens_have_names_and_ids_of_their_own(tokenizer):
    assert (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id) == (0, 1, 2)
    assert tokenizer.special_id("<|im_start|>") == 3
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


def test_too_small_a_vocabulary_is_refused_with_both_numbers():
    with pytest.raises(DataError) as error:
        train_tokenizer([TEXT], vocab_size=260)
    assert str(error.value) == (
        "vocab_size is 260; 256 bytes and 5 special tokens need at least 261"
    )
    assert train_tokenizer([TEXT], vocab_size=261).vocab_size == 261


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "gpt2"}, "preset 'gpt2' is unknown; known are gpt-2, llama-bpe, qwen2"),
        ({"min_frequency": 0}, "min_frequency must be at least 1, got 0"),
        ({"special_tokens": ["<a>", "<a>"]}, "special token '<a>' must be one name of several"),
        ({"special_tokens": ["a"]}, "special token 'a' must be one name of several"),
        ({"special_tokens": [""]}, "special token '' must be one name of several"),
        ({"special_tokens": ["he"]}, "special token 'he' is also a word of the text"),
        ({"sample_bytes": MOST_SAMPLE_BYTES + 1}, "sample_bytes is 2147483648; it must be from 1"),
        ({"sample_bytes": 0}, "sample_bytes is 0; it must be from 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(DataError, match="^" + re.escape(message)):
        train_tokenizer([TEXT], **{"vocab_size": 380} | settings)


@pytest.mark.parametrize("texts", [[], [""]])
def test_no_text_is_refused(texts):
    with pytest.raises(DataError, match=r"^there is no text to train a tokenizer on"):
        train_tokenizer(texts, vocab_size=300)


def test_fewer_tokens_than_asked_for_are_said():
    trained = train_tokenizer(["ab ab ab"], vocab_size=5000)
    assert trained.vocab_size == 263  # 'ab' and ' ab'
    assert trained.training.warnings == (
        "the text yields 263 tokens, fewer than the 5000 asked for: no other pair occurs 2 times",
    )


def test_a_sample_is_as_large_as_allowed_and_the_cut_is_said():
    def endless():
        while True:
            yield "the same words again and again "

    trained = train_tokenizer(endless(), vocab_size=265, sample_bytes=10_000)
    assert trained.training.cut
    assert 9_000 < trained.training.text_bytes <= 10_000
    assert trained.training.warnings[0].startswith("the tokenizer was trained on the first 9,9")


def test_an_error_while_reading_the_text_ends_training():
    def failing():
        yield "some text"
        raise DataError("broken.txt: no more")

    with pytest.raises(DataError, match=r"^broken.txt: no more$"):
        train_tokenizer(failing(), vocab_size=300)


def test_the_manifest_names_inputs_settings_and_versions(tmp_path, tokenizer):
    file = tmp_path / "a.txt"
    file.write_bytes(b"abc")
    record = json.loads(json.dumps(manifest(tokenizer.training, tokenizer.fingerprint, [file])))
    assert record["inputs"] == [
        {
            "path": str(file),
            "bytes": 3,
            "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        }
    ]
    assert record["settings"]["preset"] == "gpt-2"
    assert record["settings"]["special_tokens"][1] == "<|eos|>"
    assert record["vocab_size"] == 380
    assert record["fingerprint"] == tokenizer.fingerprint
    assert set(record["versions"]) == {"hermes-llm", "tokenizers", "python"}


def test_a_missing_tokenizer_names_the_ways_to_one(tmp_path):
    with pytest.raises(DataError) as error:
        Tokenizer.load(tmp_path / "t.json")
    assert str(error.value) == (
        f"{tmp_path}/t.json: no such tokenizer; make one with 'hermes train-tokenizer', or while "
        "training with --train-tokenizer"
    )


def edited(tokenizer, **stages):
    return json.dumps(json.loads(tokenizer.to_json()) | stages)


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
    with pytest.raises(DataError, match=r"t.json: not UTF-8 at byte 7, so no tokenizer$"):
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
    with pytest.raises(StorageError, match=r"^cannot write .*/none/t.json: No such file"):
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
    config = tokenizer_config(tokenizer, max_seq_len=512)
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
    assert set(tokenizer_config(plain)) & {"chat_template", "bos_token", "pad_token"} == set()

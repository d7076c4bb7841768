"""Tokenizers in other files than tokenizer.json, beside the programs whose files they are."""

import base64
import itertools
import json
import string
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hermes.errors import DataError
from hermes.tokenizer import Tokenizer, train_tokenizer
from hermes.tokenizer.bytelevel import PRESETS
from tests.tokenizer.foreign import WORDS, train_sentencepiece_file

BITS = st.sampled_from(
    [*"abc the \n\t.é日ﬁ🦄<>s/0x1234'", "  ", " quick", "tokens", "</s>", "<0x0A>", "\n\n", "it's"]
)
TEXTS = st.lists(BITS, max_size=14).map("".join)

MODELS = [
    {"byte_fallback": fallback, "add_dummy_prefix": prefix, "remove_extra_whitespaces": collapse,
     "normalization_rule_name": rule}
    for fallback, prefix, collapse, rule in itertools.product(
        (True, False), (True, False), (True, False), ("identity", "nmt_nfkc")
    )
]  # fmt: skip


@pytest.mark.parametrize("model_type", ["bpe", "unigram"])
@pytest.mark.parametrize("model", MODELS, ids=lambda model: "-".join(map(str, model.values())))
@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_a_sentencepiece_model_splits_as_sentencepiece_does(model_type, model, text):
    from sentencepiece import SentencePieceProcessor

    data = train_sentencepiece_file(model_type, **model)
    theirs = SentencePieceProcessor(model_proto=data)
    own = Tokenizer.from_files({"tokenizer.model": data}, "folder")
    ids = own.encode(text)
    assert ids == theirs.encode(text)
    assert own.decode(ids, skip_special=False).replace("<unk>", " ⁇ ") == theirs.decode(ids)


@settings(max_examples=200, deadline=None)
@given(text=st.lists(st.sampled_from([*"abc 日\n", "\n\n", "▁▁", "<tag>", " the"])).map("".join))
def test_a_users_own_tokens_are_found_first(text):
    """As in Gemma's model, which has its line breaks and tags so."""
    from sentencepiece import SentencePieceProcessor

    data = train_sentencepiece_file(
        "bpe", add_dummy_prefix=False, user_defined_symbols="\n,\n\n,▁▁,<tag>"
    )
    own = Tokenizer.from_files({"tokenizer.model": data}, "folder")
    assert own.encode(text) == SentencePieceProcessor(model_proto=data).encode(text)


def test_a_sentencepiece_model_tells_its_special_tokens_and_begins_texts(tmp_path):
    data = train_sentencepiece_file("bpe")
    (tmp_path / "tokenizer.model").write_bytes(data)
    own = Tokenizer.load(tmp_path)
    assert [own.get_name(i) for i in sorted(own.special_ids)] == ["<unk>", "<s>", "</s>"]
    assert (own.bos_id, own.eos_id, own.adds_bos) == (1, 2, True)
    assert own.kind == "BPE with byte fallback"
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer"}')
    assert not Tokenizer.load(tmp_path).adds_bos
    assert Tokenizer.load(tmp_path / "tokenizer.model").fingerprint == own.fingerprint


def test_tokens_that_other_files_add_are_special_by_their_word(tmp_path):
    data = train_sentencepiece_file("bpe")
    size = Tokenizer.from_files({"tokenizer.model": data}, "folder").vocab_size
    files = {
        "tokenizer.model": data,
        "added_tokens.json": json.dumps({"<pad>": size, "<|im_end|>": size + 1}).encode(),
        "special_tokens_map.json": b'{"pad_token": {"content": "<pad>"}}',
    }
    own = Tokenizer.from_files(files, "folder")
    assert own.vocab_size == size + 2
    assert (own.pad_id, own.special_ids >= {size}) == (size, True)
    assert size + 1 not in own.special_ids
    assert own.stop_ids == {2, size + 1}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "folder/tokenizer.model: not a model of SentencePiece: it has no tokens"),
        (b"\x0a\xff", "folder/tokenizer.model: not a model of SentencePiece: "),
        (b"\x0b\x0c", "folder/tokenizer.model: not a model of SentencePiece: wire type 3"),
        (
            b"YQ== 0\nYg== 1\n",
            "folder/tokenizer.model: it has 2 ranks, and hermes knows how Llama ",
        ),
        (b"YQ== 0\nYg== x\n", "folder/tokenizer.model:2: not a token in base64 and its rank, as "),
        (b"YQ== 0\nYg== 5\n", "folder/tokenizer.model: its ranks are not 0 to 1"),
    ],
)
def test_a_model_file_that_is_none_is_refused(data, message):
    with pytest.raises(DataError) as error:
        Tokenizer.from_files({"tokenizer.model": data}, "folder")
    assert str(error.value).startswith(message)


def test_words_and_characters_of_sentencepiece_are_refused():
    data = train_sentencepiece_file("char", byte_fallback=False)
    with pytest.raises(DataError, match=r"a SentencePiece model of type 4 \(words or characters\)"):
        Tokenizer.from_files({"tokenizer.model": data}, "folder")


def list_ranks(count):
    """Tokens of bytes, as many as a published model has, by their ranks."""
    tokens = [bytes([byte]) for byte in range(256)]
    tokens += [word.encode() for word in (" t", "  ", "\n\n", "th", "12", "é", " th", "the", "123")]
    letters = string.ascii_lowercase.encode()
    combined = (bytes(one) for size in (2, 3, 4) for one in itertools.product(letters, repeat=size))
    return list(dict.fromkeys(itertools.chain(tokens, itertools.islice(combined, count))))[:count]


@pytest.mark.long
@pytest.mark.parametrize(
    ("count", "name", "preset", "nfc", "first"),
    [
        (128_000, "tokenizer.model", "llama-bpe", False, "<|begin_of_text|>"),
        (151_643, "qwen.tiktoken", "qwen2", True, "<|endoftext|>"),
    ],
)
def test_ranks_split_as_tiktoken_does(count, name, preset, nfc, first):
    import tiktoken

    ranks = {token: rank for rank, token in enumerate(list_ranks(count))}
    lines = b"".join(base64.b64encode(token) + b" %d\n" % rank for token, rank in ranks.items())
    own = Tokenizer.from_files({name: lines}, "folder")
    assert own.get_name(count) == first
    theirs = tiktoken.Encoding(
        "theirs", pat_str=PRESETS[preset], mergeable_ranks=ranks, special_tokens={}
    )

    @settings(max_examples=500, deadline=None)
    @given(text=TEXTS)
    def compare(text):
        clean = unicodedata.normalize("NFC", text) if nfc else text
        ids = own.encode(text)
        assert ids == theirs.encode(clean)
        assert own.decode(ids) == clean

    compare()
    assert own.adds_bos == (preset == "llama-bpe")


@pytest.fixture(scope="module")
def pair():
    """vocab.json and merges.txt of GPT-2's kind, and the tokenizer.json they come from."""
    made = train_tokenizer(
        [WORDS], vocab_size=380, preset="gpt-2", special_tokens=["<|endoftext|>"]
    )
    model = json.loads(made.to_json())["model"]
    merges = "\n".join(" ".join(one) for one in model["merges"])
    files = {
        "vocab.json": json.dumps(model["vocab"]).encode(),
        "merges.txt": f"#version: 0.2\n{merges}\n".encode(),
    }
    return made, files


def test_vocab_json_and_merges_txt_are_gpt2s(pair, tmp_path):
    made, files = pair
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "<|endoftext|>"}')
    for path in (tmp_path, tmp_path / "vocab.json", tmp_path / "merges.txt"):
        own = Tokenizer.load(path)
        assert own.encode(WORDS) == made.encode(WORDS)
        assert own.decode(own.encode(WORDS)) == WORDS
        assert own.special_ids == made.special_ids == {0}


def test_qwens_vocabulary_is_split_as_qwens(pair):
    _, files = pair
    settings = {"tokenizer_config.json": b'{"tokenizer_class": "Qwen2Tokenizer"}'}
    stage = json.loads(Tokenizer.from_files(files | settings, "folder").to_json())
    assert stage["pre_tokenizer"]["pretokenizers"][0]["pattern"]["Regex"] == PRESETS["qwen2"]
    assert stage["normalizer"] == {"type": "NFC"}


def test_a_vocabulary_of_another_kind_is_refused():
    files = {"vocab.json": b'{"a</w>": 0}', "merges.txt": b"a b</w>\n"}
    with pytest.raises(DataError) as error:
        Tokenizer.from_files(files, "folder")
    assert str(error.value) == (
        "folder/vocab.json: not the vocabulary of a byte-level BPE tokenizer; give its "
        "tokenizer.json"
    )


def test_a_folder_without_a_tokenizer_names_the_ways_to_one(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"/tokenizer.json: no such tokenizer; make one with"):
        Tokenizer.load(tmp_path)

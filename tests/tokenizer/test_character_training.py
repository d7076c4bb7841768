"""Vocabularies of characters, in SentencePiece's style: text comes back, training repeats."""

import json
import subprocess
import sys

import pytest

from hermes.errors import DataError, HermesError
from hermes.tokenizer import Tokenizer, build_manifest, train_tokenizer
from tests.tokenizer.foreign import WORDS
from tests.tokenizer.test_tokenizer import AWKWARD

KINDS = [("bpe", True), ("unigram", True), ("unigram", False)]


def train(model_type, byte_fallback, **options):
    own = {"vocab_size": 450, "model_type": model_type, "byte_fallback": byte_fallback}
    return train_tokenizer([WORDS], **own | options)


@pytest.fixture(scope="module", params=KINDS, ids=["bpe", "unigram", "unigram-unknown"])
def made(request):
    return train(*request.param)


def test_every_text_comes_back(made):
    if "fallback" not in made.kind:
        assert "rare characters ('a🦄b' becomes 'ab')" in made.losses[0]
        return
    assert len(made.losses) == 1  # the letter that stands for a space
    for text in (*AWKWARD, WORDS):
        assert made.decode(made.encode(text)) == text


def test_it_is_of_the_kind_that_was_asked_for(made):
    settings = made.training.settings
    config = json.loads(made.to_json())
    names = {"bpe": "BPE", "unigram": "Unigram"}
    assert config["model"]["type"] == names[settings.model_type]
    assert config["model"]["byte_fallback"] is settings.byte_fallback
    assert made.kind == names[settings.model_type] + " with byte fallback" * settings.byte_fallback
    ids = [made.find_special_id(name) for name in settings.special_tokens]
    assert ids == [1, 2, 3, 4, 5]
    assert (made.bos_id, made.eos_id, made.pad_id, made.adds_bos) == (1, 2, 3, False)


def test_it_shortens_its_text_and_ends_tokens_at_line_breaks(made):
    ids = made.encode(WORDS)
    assert len(ids) < len(WORDS) * 0.7  # Unigram finds few words in so short a text
    spelt = [made.get_token_bytes(i) for i in range(made.vocab_size) if i not in made.special_ids]
    assert [one for one in spelt if b"\n" in one and one.strip(b"\n")] == []


def test_training_twice_gives_the_same_file_in_another_process(made):
    code = (
        "import sys\nfrom hermes.tokenizer import train_tokenizer\n"
        "print(train_tokenizer([sys.stdin.read()], vocab_size=450, model_type=sys.argv[1],"
        " byte_fallback=sys.argv[2] == 'True').fingerprint)"
    )
    settings = made.training.settings
    done = subprocess.run(
        [sys.executable, "-c", code, settings.model_type, str(settings.byte_fallback)],
        input=WORDS.replace("\r\n", "\n").encode(),
        capture_output=True,
        check=True,
    )
    clean = WORDS.replace("\r\n", "\n")
    again = train_tokenizer(
        [clean], vocab_size=450, model_type=settings.model_type,
        byte_fallback=settings.byte_fallback,
    )  # fmt: skip
    assert done.stdout.decode().strip() == again.fingerprint


def test_normalization_is_part_of_the_tokenizer():
    own = Tokenizer.from_json(train("bpe", True, normalize_nfc=True).to_json())
    assert own.decode(own.encode("e\u0301")) == "é"


def test_the_manifest_names_the_kind_and_the_library(made):
    record = json.loads(json.dumps(build_manifest(made.training, made.fingerprint, [])))
    assert record["settings"]["preset"] is None
    assert record["settings"]["model_type"] in ("bpe", "unigram")
    assert set(record["versions"]) == {"hermes-llm", "tokenizers", "python", "sentencepiece"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"model_type": "wordpiece", "byte_fallback": False},
            "model_type 'wordpiece' is unknown; known are bpe, unigram",
        ),
        (
            {"preset": "qwen2"},
            "preset 'qwen2' belongs to byte-level BPE; a vocabulary of characters is split at "
            "spaces, so leave it out",
        ),
        (
            {"vocab_size": 260},
            "vocab_size is 260; 256 bytes and 5 special tokens need at least 261",
        ),
        ({"vocab_size": 270}, "SentencePiece cannot train 270 tokens on this text: "),
        (
            {"vocab_size": 4, "model_type": "unigram", "byte_fallback": False},
            "vocab_size is 4; 5 special tokens need at least 5",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(options, message):
    with pytest.raises(DataError) as error:
        train(**{"model_type": "bpe", "byte_fallback": True} | options)
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("texts", [[], [""]])
def test_no_text_is_refused(texts):
    with pytest.raises(DataError, match=r"^there is no text to train a tokenizer on"):
        train_tokenizer(texts, vocab_size=400, model_type="unigram")


def test_an_error_while_reading_the_text_ends_training():
    def failing():
        yield "some text"
        raise DataError("broken.txt: no more")

    with pytest.raises(DataError, match=r"^broken.txt: no more$"):
        train_tokenizer(failing(), vocab_size=400, model_type="unigram")


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    with pytest.raises(HermesError) as error:
        train("unigram", True)
    assert str(error.value) == (
        "training this kind of tokenizer needs SentencePiece; pip install "
        "'hermes-llm[sentencepiece]'"
    )

"""Equal input gives equal files; what cannot be trained is refused."""

import json
import re
import subprocess
import sys

import pytest

from hermes.errors import DataError
from hermes.tokenizer import train_tokenizer
from hermes.tokenizer.bytelevel import split_text
from hermes.tokenizer.training import MOST_SAMPLE_BYTES, build_manifest
from tests.tokenizer.support import TEXT


def test_training_shortens_its_text(tokenizer):
    assert len(tokenizer.encode(TEXT)) < len(TEXT.encode()) / 2


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
        split_text([TEXT], 20), vocab_size=380, preset=preset.training.settings.preset
    )
    assert cut.to_json() == preset.to_json()


def test_too_small_a_vocabulary_is_refused_with_both_numbers():
    with pytest.raises(DataError) as error:
        train_tokenizer([TEXT], vocab_size=260)
    assert str(error.value) == (
        "vocab_size is 260; 256 bytes and 5 special tokens need at least 261"
    )
    assert train_tokenizer([TEXT], vocab_size=261).vocab_size == 261


def test_a_vocabulary_beyond_what_is_read_again_is_refused():
    """The trainer ended the process: it reserved more memory than there is."""
    with pytest.raises(DataError, match=r"vocab_size is 1,000,000,000; the most is 16,777,216$"):
        train_tokenizer([TEXT], vocab_size=10**9)


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
    record = json.loads(
        json.dumps(build_manifest(tokenizer.training, tokenizer.fingerprint, [file]))
    )
    assert record["inputs"] == [
        {
            "path": str(file),
            "bytes": 3,
            "sha256": "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
        }
    ]
    assert record["settings"]["preset"] == "llama-bpe"
    assert record["settings"]["model_type"] == "bpe"
    assert record["settings"]["special_tokens"][1] == "<|eos|>"
    assert record["vocab_size"] == 380
    assert record["fingerprint"] == tokenizer.fingerprint
    assert set(record["versions"]) == {"hermes-llm", "tokenizers", "python"}

"""Damaged files tokenizer.json: refused in one line, or they work."""

import json
import subprocess
import sys

import pytest

from hermes.errors import DataError
from hermes.tokenizer import Tokenizer
from tests.tokenizer.mutations import make_bases

BASES = make_bases()


def damage(path, value, base="byte-level"):
    """The text of a sound file in which the value at `path` is another."""
    config = json.loads(json.dumps(BASES[base]))
    *way, last = path
    node = config
    for key in way:
        node = node[key]
    node[last] = value
    return json.dumps(config)


CASES = {
    "a huge id": (damage(["model", "vocab", "a"], 2**31), "has id 2147483648; hermes reads ids b"),
    "a negative id": (damage(["model", "vocab", "a"], -1), "cannot read it: "),
    "an id twice": (damage(["model", "vocab", "a"], 5), "have the same id, 5; a tokenizer has one"),
    "an id that is a text": (damage(["model", "vocab", "a"], "5"), "its vocabulary is damaged"),
    "a fraction": (damage(["model", "vocab", "a"], 5.5), "its vocabulary is damaged"),
    "a prefix of subwords": (
        damage(["model", "continuing_subword_prefix"], "##"),
        "its model has continuing_subword_prefix '##'",
    ),
    "an ending of words": (damage(["model", "end_of_word_suffix"], "</w>"), "end_of_word_suffix"),
    "a number for stages": (
        damage(["decoder"], {"type": "Sequence", "decoders": 5}),
        "not a tokenizer that hermes reads: it is BPE",
    ),
    "nesting": ("[" * 200_000, "not a tokenizer.json: "),
    "nesting inside": (damage(["normalizer"], 0).replace(
        '"normalizer": 0', '"normalizer": ' + "[" * 99_999), "not a tokenizer.json: "),
    "5,000 digits": (damage(["model", "vocab", "a"], 0).replace(
        '"a": 0', '"a": ' + "9" * 5000), "not a tokenizer.json: "),
    "half": (damage(["version"], "1.0")[:999], "not JSON"),
    "a list": ("[]", "it has no model with a vocabulary"),
}  # fmt: skip


@pytest.mark.parametrize("kind", CASES)
def test_a_damaged_file_is_refused_in_one_line(kind):
    text, message = CASES[kind]
    with pytest.raises(DataError) as refused:
        Tokenizer.from_json(text)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_what_goes_wrong_only_when_a_text_is_encoded_is_refused_then():
    tokenizer = Tokenizer.from_json(
        damage(["model"], BASES["Unigram"]["model"] | {"unk_id": None, "byte_fallback": False},
               base="Unigram")
    )  # fmt: skip
    with pytest.raises(DataError, match="cannot encode a text, as"):
        tokenizer.encode("\u4e00")


@pytest.mark.parametrize("count", [400, pytest.param(20_000, marks=pytest.mark.long)])
def test_random_damage_gives_neither_traceback_nor_hang(count):
    command = [sys.executable, "-m", "tests.tokenizer.mutations", "--count", str(count)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1200)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    counts = json.loads(done.stdout.splitlines()[-1])
    assert counts["works"] > count / 10
    assert counts["refused"] > count / 10

"""Damaged files tokenizer.json: refused in one line, or they work."""

import base64
import json
import subprocess
import sys

import pytest
from tokenizers import Tokenizer as TokenizerOfLibrary

from hermes.errors import DataError
from hermes.tokenizer import Tokenizer
from hermes.tokenizer.bytelevel import make_normalizer
from hermes.tokenizer.growth import LARGEST_GROWTH, measure_growth
from hermes.tokenizer.spelling import iterate_stages
from tests.tokenizer.mutations import make_bases

BASES = make_bases()


def replace(pattern, content):
    return {"type": "Replace", "pattern": pattern, "content": content}


def chain(*stages):
    return {"type": "Sequence", "normalizers": list(stages)}


TEXT_PART = {"Sequence": {"id": "A", "type_id": 0}}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
UNKNOWN_PART = {"SpecialToken": {"id": "q", "type_id": 0}}


def template(parts):
    """A post-processor of these parts; q is a token that no vocabulary has."""
    token = {"id": "q", "ids": [99_999_999], "tokens": ["q"]}
    return {
        "type": "TemplateProcessing",
        "single": parts,
        "pair": [TEXT_PART, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"q": token},
    }


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
    "a pre_tokenizer that doubles": (
        damage(["pre_tokenizer"], {"type": "Sequence", "pretokenizers": [BYTES] * 40}),
        "its pre_tokenizer could make one character 1.209e+24 long",
    ),
    "a template that repeats the text": (
        damage(["post_processor"], template([TEXT_PART] * 100_000)),
        "its post_processor has the text 100,000 times; hermes reads templates that have it once",
    ),
    "a template without the text": (
        damage(["post_processor"], template([UNKNOWN_PART])),
        "its post_processor has the text 0 times",
    ),
    "a template with an unknown token": (
        damage(["post_processor"], template([UNKNOWN_PART, TEXT_PART])),
        "its post_processor begins a text with token 99999999, which its vocabulary lacks",
    ),
    "a template of numbers": (
        damage(["post_processor"], template([1, None])),
        "its post_processor has the text 0 times; hermes reads templates that have it once",
    ),
    "an unknown token before a text": (
        damage(["post_processor"], {"type": "BertProcessing", "sep": ["", 0], "cls": ["", 2**20]}),
        "its post_processor begins a text with token 1048576, which its vocabulary lacks",
    ),
    "nesting": ("[" * 200_000, "not a tokenizer.json: "),
    "nesting inside": (damage(["normalizer"], 0).replace(
        '"normalizer": 0', '"normalizer": ' + "[" * 99_999), "not a tokenizer.json: "),
    "a normalizer that multiplies": (
        damage(["normalizer"], chain(*[replace({"String": "a"}, "a" * 10_000)] * 3)),
        "its normalizer could make one character 1e+12 long; hermes reads tokenizers that make at",
    ),
    "one that multiplies what it is not given": (
        damage(["normalizer"], chain(
            replace({"Regex": "[xy]"}, "b" * 500), replace({"String": "b"}, "ccc"))),
        "its normalizer could make one character 1500 long",
    ),
    "one that fills every gap": (
        damage(["normalizer"], replace({"Regex": "q*"}, "a" * 1000)), "one character 1001 long"),
    "one that puts a book before a text": (
        damage(["normalizer"], {"type": "Prepend", "prepend": "a" * 1000}), "character 1001 long"),
    "a normalizer of many stages": (
        damage(["normalizer"], chain(*[{"type": "NFC"}] * 1001)), "its normalizer has 1,001 st"),
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


@pytest.mark.parametrize(
    "normalizer",
    [
        json.loads(make_normalizer(True, True).__getstate__()),
        chain({"type": "NFKC"}, {"type": "Prepend", "prepend": "▁"}, replace({"String": " "}, "▁")),
        chain(*[replace({"String": c}, f"<{c}>") for c in "abcdefghij"]),
        chain(*[replace({"Regex": f"[{c}]"}, "xyz" * 100) for c in "abcdefghij"]),
    ],
)
def test_normalizers_that_lengthen_a_text_within_bounds_are_read(normalizer):
    text = damage(["normalizer"], normalizer)
    assert Tokenizer.from_json(text).vocab_size > 0
    stages = list(iterate_stages(normalizer))
    made = TokenizerOfLibrary.from_str(text).normalizer
    longest = max(len(made.normalize_str(c)) for c in ["a", "j", "\ufdfa", "…", "ﬃ", " ", "\u0390"])
    assert longest <= measure_growth(stages) <= LARGEST_GROWTH


def test_a_compiled_table_counts_with_its_longest_text():
    texts = b"a\0" + b"b" * 40 + b"\0"
    table = base64.b64encode((8).to_bytes(4, "little") + bytes(8) + texts).decode()
    stage = {"type": "Precompiled", "precompiled_charsmap": table}
    assert measure_growth([stage]) == 40
    assert measure_growth([stage, stage]) == 1600
    assert measure_growth([{"type": "Precompiled", "precompiled_charsmap": "?"}]) == 1


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

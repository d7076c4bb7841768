"""The laws of the language: what is written reads back, and nothing but MalError escapes."""

import math
from dataclasses import replace
from random import Random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hermes_specs
from hermes import mal
from hermes.errors import MalError, SpecError
from hermes.mal.words import DEFINED, SYNONYMS, WORDS, list_keys
from tests.strategies import models

QUICK = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
BUNDLED = {name: hermes_specs.read_model(name) for name in hermes_specs.list_models()}


@QUICK
@given(models())
def test_a_spec_that_is_written_reads_back_the_same_and_is_canonical(spec):
    text = mal.dumps(spec)
    assert mal.loads(text) == spec
    assert mal.dumps(mal.loads(text)) == text


@settings(QUICK, max_examples=30)
@given(models())
def test_an_edit_to_the_same_value_changes_nothing(spec):
    assert mal.edit(spec, "vocab_size", str(spec.vocab_size)) == spec


@pytest.mark.parametrize("name", BUNDLED)
def test_a_bundled_model_reads_back_the_same(name):
    spec = mal.load(name)
    assert mal.loads(mal.dumps(spec)) == spec


def read(data):
    """Parse whatever it is; anything but a refusal with its place fails the test."""
    error = None
    try:
        spec = mal.loads(data, file="any.mal")
        assert mal.loads(mal.dumps(spec)) == spec
    except MalError as refusal:
        error = refusal
    if error:
        assert str(error).startswith(f"any.mal:{error.line}:{error.column}: ")
        assert error.line >= 1
        assert error.column >= 1
        assert len(str(error)) < 1000


@QUICK
@given(st.sampled_from(list(BUNDLED.values())), st.data())
def test_a_truncated_file_is_read_or_refused(data, draw):
    read(data[: draw.draw(st.integers(0, len(data)))])


@settings(QUICK, max_examples=200)
@given(st.sampled_from(list(BUNDLED.values())), st.data())
def test_a_file_with_one_byte_changed_is_read_or_refused(data, draw):
    at = draw.draw(st.integers(0, len(data) - 1))
    new = draw.draw(st.one_of(st.binary(min_size=0, max_size=2), st.sampled_from(list(MARKS))))
    read(data[:at] + new + data[at + 1 :])


MARKS = [b"{", b"}", b"[", b"]", b":", b",", b'"', b"#", b"-", b"\x00", b"\r", b"\xff"]


@settings(QUICK, max_examples=150)
@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    read(data)


@settings(QUICK, max_examples=100)
@given(
    st.lists(
        st.one_of(
            st.sampled_from([*DEFINED, *WORDS.values(), *(k for w in WORDS for k in list_keys(w))]),
            st.sampled_from(
                ["{", "}", "[", "]", ":", ",", "none", "true", "a", '"x"', "1", "2.5", "x"]
            ),
        ),
        max_size=40,
    )
)
def test_any_words_are_read_or_refused(words):
    read(" ".join(words))


@settings(QUICK, max_examples=100)
@given(st.text(max_size=100))
def test_any_text_is_read_or_refused(text):
    read(text)


@settings(QUICK, max_examples=100)
@given(st.text(max_size=30), st.text(max_size=30))
def test_any_edit_is_made_or_refused(path, value):
    error = None
    try:
        mal.edit(mal.load("nano"), path, value)
    except SpecError as refusal:
        error = refusal
    assert not isinstance(error, MalError)  # there is no file to point into


EVERY_WORD = [
    *DEFINED,
    *SYNONYMS,
    *WORDS.values(),
    *(key for kind in WORDS for key in list_keys(kind)),
]
EVERY_WORD += [
    "none",
    "true",
    "qkv",
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    "1",
    "2.5",
    "-3",
    "1e999",
    '"x"',
]


def mutated(data, random):
    """A file with words put in, cut out, repeated or struck by a byte, up to six times."""
    data = bytearray(data)
    for _ in range(random.randint(1, 6)):
        at = random.randrange(len(data) + 1)
        match random.randrange(5):
            case 0:
                data[at : at + random.randint(0, 8)] = f" {random.choice(EVERY_WORD)} ".encode()
            case 1:
                del data[at : at + random.randint(1, 20)]
            case 2:
                start = random.randrange(len(data) + 1)
                data[at:at] = data[start : start + random.randint(1, 60)]
            case 3:
                data[at : at + 1] = bytes([random.randrange(256)])
            case 4:
                data = data[:at]
        data = data or bytearray(b"#")
    return bytes(data)


@pytest.mark.parametrize(
    "count", [1000, pytest.param(30_000, marks=pytest.mark.long)], ids=["quick", "long"]
)
def test_a_mutated_file_is_read_or_refused(count):
    random = Random("test_a_mutated_file_is_read_or_refused")
    files = list(BUNDLED.values())
    for _ in range(count):
        read(mutated(random.choice(files), random))


NASTY = {
    "a million braces": "model m { a " + "{ a " * 10**5,
    "a million brackets": "model m { a: " + "[" * 10**6,
    "a million digits": "model m { vocab_size: " + "9" * 10**6 + " }",
    "a million fields": "model m { " + "a:1," * 250_000 + "}",
    "a million letters": "model " + "m" * 10**6 + " { }",
    "a million letters of a key": "model m { " + "k" * 10**6 + ": 1 }",
    "a million comments": "#\n" * 500_000,
    "a million quotes": 'model m { description: "' + '\\"' * 500_000,
    "a million spaces": " " * 10**6,
    "more than a mebibyte": "#" * (2**20 + 1),
    "a float beyond floats": "block b { attention: { num_heads: 1 softcap: 1e999 } } ",
    "a million of 1e1e1e": "model m { scale: " + "1e1" * 300_000,
}


@pytest.mark.parametrize("case", NASTY)
def test_a_hostile_file_is_refused_at_once(case):
    with pytest.raises(MalError) as caught:
        mal.loads(NASTY[case])
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("number", [1e-300, 5e-324, 1.7976931348623157e308, 0.1, 1 / 3, 1e16, 1e22])
def test_a_number_keeps_every_bit(number):
    nano = mal.load("nano")
    spec = replace(nano, embeddings=replace(nano.embeddings, scale=-number))
    read_back = mal.loads(mal.dumps(spec)).embeddings.scale
    assert math.copysign(1, read_back) == -1
    assert read_back == -number

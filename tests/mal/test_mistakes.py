"""Every mistake of a file in one pass: files with planted ones, and what each hides."""

import random

import pytest

from hermes.errors import MalError
from hermes.mal.files import read_mal
from hermes.mal.mistakes import list_mistakes
from hermes.mal.tokens import Source
from tests.packages import ROOT

# A line of a correct file, a line in its place that is one mistake, and words of the error.
ATTENTION = r"""
num_heads: 4 | num_heads: 0 | from 1
num_heads: 4 | num_heads 4 | expected ':'
num_kv_heads: 2 | num_kv_heads: -2 | from 1
num_kv_heads: 2 | num_kv_heads: no | an integer
dropout: 0.1 | dropout: 1.5 | below 1
dropout: 0.1 | dropout: .1 | is not a number
bias: none | bias: nine | it must be one of
bias: none | bias: @ | unexpected character
softcap: 30.0 | softcap: -1.0 | above 0
softcap: 30.0 | softcapp: 30.0 | unknown key 'softcapp'
window_size: 8 | window_size: 8.5 | an integer
window_size: 8 | window_size: 8] | a key of
position_encoding: rope { theta: 1e4 } | position_encoding: rope { theta: -1.0 } | above 0
position_encoding: rope { theta: 1e4 } | position_encoding: rope { thata: 2 } | unknown key
position_encoding: rope { theta: 1e4 } | position_encoding: rope { theta 1e4 } | expected ':'
position_encoding: rope { theta: 1e4 } | position_encoding: rop | got 'rop'
"""
FFN = r"""
hidden_dim: 32 | hidden_dim: 0 | from 1
hidden_dim: 32 | hidden_dim: - | is not a number
activation: swiglu | activation: swigly | it must be one of
activation: swiglu | activation: 3 | a word
bias: false | bias: 1 | true or false
bias: false | bias: false\nbias: false | given twice
"""
BLOCK = r"""
norm: rmsnorm { eps: 1e-6 } | norm: rmsnorm { eps: 0.0 } | above 0
norm: rmsnorm { eps: 1e-6 } | norm: rms | got 'rms'
norm_position: pre | norm_position: before | it must be one of
dropout: 0.1 | dropout: x | a number
dropout: 0.1 | dropout: 1.0 | below 1
dropout: 0.1 | dropout: 0.1 0.2 | a key of
"""
MODEL = r"""
vocab_size: 100 | vocab_size: 0 | from 1
vocab_size: 100 | vocab_size: many | an integer
max_seq_len: 64 | max_seq_len: -4 | from 1
max_seq_len: 64 | max_seq_len = 64 | unexpected character
num_layers: 2 | num_layers: 20000 | at most 10000
num_layers: 2 | num_layers: two | an integer
output { scale: 0.5 } | output { scale: 0.0 } | above 0
output { scale: 0.5 } | output { scael: 0.5 } | unknown key 'scael'
"""


def read_table(text):
    """Each correct line with what may stand in its place."""
    fields = {}
    for row in text.strip().splitlines():
        line, wrong, words = row.split(" | ")
        fields.setdefault(line, []).append((wrong.replace("\\n", "\n  "), words))
    return fields.items()


def make_file(choose, count, parts=4):
    """A file of that many definitions of each kind and `count` mistakes, with what is expected."""
    lines, places = [], []
    for part in range(parts):
        for kind, fields, more in (
            ("attention", ATTENTION, []),
            ("ffn", FFN, []),
            ("block", BLOCK, [f"attention: attention{part}", f"ffn: ffn{part}"]),
            ("model", MODEL, [f"block: block{part}", "hidden_size: 16"]),
        ):
            lines.append(f"{kind} {kind}{part} {{")
            lines += [f"  {line}" for line in more]
            for line, wrong in read_table(fields):
                places.append((len(lines), wrong))
                lines.append(f"  {line}")
            lines.append("}")
    chosen = {}
    for at, wrong in choose.sample(places, count):
        lines[at], chosen[at] = choose.choice(wrong)
        lines[at] = f"  {lines[at]}"
    text, expected, number = "", [], 1
    for at, line in enumerate(lines):
        number += line.count("\n")
        if at in chosen:
            expected.append((number, chosen[at]))
        text += line + "\n"
        number += 1
    return text, expected


@pytest.mark.parametrize("seed", range(60))
def test_every_planted_mistake_is_reported_once_in_its_order(seed):
    choose = random.Random(seed)
    text, expected = make_file(choose, choose.randint(1, 20))
    found = list_mistakes(Source.from_data(text))
    told = [(error.line, error.sentence) for error in found]
    assert [line for line, _ in told] == sorted(line for line, _ in told)
    left = list(told)
    for line, words in expected:
        mine = [one for one in left if one[0] == line and words in one[1]]
        assert mine, (line, words, told, text)
        left.remove(mine[0])
    assert left == [], text
    with pytest.raises(MalError) as caught:
        read_mal(text)
    assert str(caught.value) in {str(error) for error in found}


def test_a_file_without_mistakes_has_none():
    text, _ = make_file(random.Random(0), 0)
    assert list_mistakes(Source.from_data(text)) == []
    assert len(read_mal(text).models) == 4


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests/mal/invalid").glob("*.mal")), ids=lambda p: p.stem
)
def test_the_first_mistake_is_among_all(path):
    """Whatever is wrong with a file, what stops it is one of those that are listed."""
    try:
        source = Source.from_data(path.read_bytes(), path.name)
    except MalError:
        return  # no text
    found = [str(error) for error in list_mistakes(source)]
    if path.stem == "several-models":  # which is one only where a model is asked for
        assert found == []
        return
    with pytest.raises(MalError) as caught:
        read_mal(path.read_bytes(), path.name)
    assert str(caught.value) in found


SEVERAL = """attention a { num_heads: 4, window_size: [8
  dropout: 2.0 }
ffn f { description: "a, hidden_dim: 3.5 }
block b { attention: a, ffn: f, norm_position: last, shared_norm: true, parallel: true }
block c { attention: { num_heads: 7 }, ffn: { hidden_dim: 0 } }
model m { pattern: [c, c, c], num_layers: 2, hidden_size: 16, max_seq_len: 0 }
model n {
  block: c
  pattern: [b, d]
model o { block: b }
"""


def test_mistakes_beside_what_is_never_closed_are_found_too():
    found = [(error.line, error.column, error.sentence) for error in list_mistakes(Source(SEVERAL))]
    assert [(line, sentence.split(";")[0]) for line, _, sentence in found] == [
        (2, "expected ',' or ']', found 'dropout'"),
        (2, "dropout must be at least 0 and below 1, got 2.0"),
        (3, "this string is never closed"),
        (4, "norm_position is 'last'"),
        (5, "hidden_dim must be from 1 to 2147483647, got 0"),
        (6, "max_seq_len must be from 1 to 2147483647, got 0"),
        (7, "'{' opening model n is never closed"),
    ]


MODEL_LEVEL = """attention a { num_heads: 7 }
attention c { num_heads: 16 }
block b { attention: a }
block d { attention: c, ffn: none }
model m { pattern: [b, d, b], num_layers: 4, hidden_size: 16, vocab_size: 0 }
block unused { attention: a }
"""


def test_what_only_a_whole_model_shows_is_found_in_each_of_its_blocks():
    found = [(error.line, error.sentence) for error in list_mistakes(Source(MODEL_LEVEL))]
    assert [(line, sentence.split(",")[0]) for line, sentence in found] == [
        (1, "num_heads is 7"),
        (2, "attention needs an even head_dim for rope"),
        (5, "vocab_size must be from 1 to 2147483647"),
        (6, "block 'unused' is defined and never used"),
    ]

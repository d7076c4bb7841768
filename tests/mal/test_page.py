"""specs/mal.md, the definition of the language, is what the language is."""

import re
from pathlib import Path

import pytest

from hermes import mal
from hermes.errors import MalError
from hermes.mal.words import DEFINED, SPELLINGS, SYNONYMS, WORDS, list_keys
from hermes.numerics.params import count_parameters

PAGE = (Path(__file__).parents[2] / "specs" / "mal.md").read_text(encoding="utf-8")
EXAMPLE = re.search(r"```\n(# my_model\.mal\n.*?)```", PAGE, re.DOTALL)[1]


def test_the_example_is_a_model():
    spec = mal.loads(EXAMPLE)
    assert (spec.name, spec.num_layers, spec.layers[0].attention.head_dim) == ("my_model", 16, 64)


def test_the_example_of_an_error_is_one():
    text = EXAMPLE.replace("num_heads: 16", "num_head: 16", 1)
    with pytest.raises(MalError) as caught:
        mal.loads(text, file="my_model.mal")
    assert str(caught.value) in PAGE


def test_the_table_of_bundled_models_has_their_counts():
    rows = re.findall(r"^\| ([a-z0-9-]+) \|.*\| ([\d,]+) \|$", PAGE, re.MULTILINE)
    found = {name: int(count.replace(",", "")) for name, count in rows if "," in count}
    assert found == {name: count_parameters(mal.load(name)) for name in mal.list_bundled()}


@pytest.mark.parametrize("kind", WORDS, ids=lambda kind: kind.__name__)
def test_every_key_and_word_stands_on_the_page(kind):
    assert re.search(rf"(###|\||`) ?{WORDS[kind]}\b", PAGE)
    for key in list_keys(kind):
        assert re.search(rf"[|,;(] ?{key}\b", PAGE), key


def test_every_other_spelling_stands_on_the_page():
    for word in [*SYNONYMS, *(word for words in SPELLINGS.values() for word in words), *DEFINED]:
        assert word in PAGE, word

"""Fixtures of the tests of data."""

import json

import pytest

from hermes.data.prepared import prepare_tokens
from hermes.tokenizer import train_tokenizer
from tests.data.preparation import SMALL
from tests.data.support import TEXT


@pytest.fixture
def write(tmp_path):
    def written(name, content):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return written


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer([TEXT], vocab_size=300)


@pytest.fixture
def data(write, tmp_path):
    """Files of several kinds: many documents, a long one, and small ones."""
    lines = [json.dumps({"text": f"{n} {TEXT[: 7 * n]}"}) for n in range(40)]
    write("data/a.jsonl", "\n".join(lines))
    write("data/b.txt", TEXT * 900)
    for n in range(5):
        write(f"data/c{n}.txt", f"the {n} cats\n")
    return tmp_path / "data"


@pytest.fixture
def prepared(data, tokenizer, tmp_path):
    """The data prepared in one go."""
    prepare_tokens(data, tokenizer, tmp_path / "whole", options=SMALL)
    return tmp_path / "whole"

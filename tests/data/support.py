"""Small texts and streams."""

import pytest

from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.template import Template
from hermes.data import (
    TokenStream,
)
from hermes.data.document_reader import Document, read_documents
from hermes.data.preferences import (
    parse_pair,
)
from hermes.data.records import Record
from hermes.errors import DataError
from hermes.tokenizer import CHAT_TEMPLATE
from tests.finetuning.support import (
    small_tokenizer,
)

TEXT = "the cat sat on the mat.\n\nThe dog didn't; 3 naïve dogs did!\n" * 5


def corpus(*texts):
    return [Document(text, "a.jsonl", line) for line, text in enumerate(texts, 1)]


def stream_of(count):
    return TokenStream.from_ids(range(count))


def texts(*paths, **options):
    return [document.text for document in read_documents(list(paths), **options)]


def message(*paths, **options):
    with pytest.raises(DataError) as error:
        texts(*paths, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def pair(value):
    return parse_pair(Record(value, "prefs.jsonl:3"))


def encoder():
    return ChatEncoder(small_tokenizer(), Template(CHAT_TEMPLATE, names={}))

"""Corpora of tokenizers that cannot be cut anywhere, or that mark the beginning of a text."""

import json
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.messages import Conversation
from hermes.chat_templates.template import Template
from hermes.data import tokenize
from hermes.data.document_reader import Document
from hermes.data.encoded_pairs import encode_plain_pair
from hermes.tokenizer import CHAT_TEMPLATE, Tokenizer
from hermes.tokenizer.bytelevel import split_text
from tests.data.support import corpus, pair
from tests.tokenizer.foreign import WORDS, make_kinds

KINDS = ("llama 2", "mistral 0.3", "gemma", "t5", "unigram with bytes", "xlnet")
SEAMS = "a b  c\n\n  d.\ne\n/f\n g\t h 1 2 'll\ni - 日本 語\n\nk ?! x\n...\n\u00a0l "


@cache
def load(kind):
    return Tokenizer.from_json(make_kinds()[kind]).replace_roles(bos=False)


def cut(text, size):
    pieces = list(split_text([text], size))
    last = len(pieces) - 1
    return [Document(one, "a.txt", 1, more=i < last) for i, one in enumerate(pieces)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [1, 20, 130, 177, 300])
def test_the_pieces_of_a_document_have_the_tokens_of_the_whole(kind, size):
    """Also where split_text finds no good place and cuts within a word."""
    own = load(kind)
    texts = [(SEAMS + WORDS) * 4, "wordsoftokens" * 70, "日本語" * 200]
    documents = [piece for text in texts for piece in cut(text, size)]
    with tokenize(documents, own) as stream:
        expected = [i for text in texts for i in (*own.encode(text), own.eos_id)]
        assert stream.tokens.tolist() == expected
        assert stream.documents == 3


@pytest.mark.parametrize("kind", ["llama 2", "t5"])
def test_pieces_are_encoded_by_themselves_where_they_can_be(kind):
    """Or a large document would be held in memory as a whole."""
    own = load(kind)
    pieces = cut(WORDS * 20, 300)
    pairs = [(a.text, b.text) for a, b in pairwise(pieces)]
    assert len(pairs) > 20
    assert sum(own.can_cut(left, right) for left, right in pairs) >= len(pairs) - 1
    assert not own.can_cut(f"{WORDS} tok", f"ens {WORDS}")


@pytest.mark.parametrize("kind", KINDS)
def test_every_document_begins_with_bos_where_a_text_does(kind):
    own = load(kind).replace_roles(bos=True)
    with tokenize([*corpus("the quick", "tokens"), *cut(WORDS, 50)], own) as stream:
        expected = [
            i
            for text in ("the quick", "tokens", WORDS)
            for i in (own.bos_id, *own.encode(text), own.eos_id)
        ]
        assert stream.tokens.tolist() == expected
    with tokenize(corpus("the quick"), own.replace_roles(bos=False)) as stream:
        assert own.bos_id not in stream.tokens


def test_the_bytes_of_a_corpus_are_those_of_its_texts():
    own = load("llama 2").replace_roles(bos=True)
    texts = ["the quick", " words", WORDS]
    with tokenize(corpus(*texts), own) as stream:
        count = own.count_bytes(stream.tokens, np.arange(len(stream)) > 0)
        assert count == sum(len(text.encode()) for text in texts) == stream.text_bytes


def test_plain_text_in_sft_and_dpo_begins_with_bos_where_a_text_does():
    own = load("llama 2").replace_roles(bos=True)
    encoder = ChatEncoder(own, Template(CHAT_TEMPLATE, names={}))
    example = encoder.encode(Conversation((), "a.jsonl:1", text="the quick"))
    assert example.ids.tolist() == [own.bos_id, *own.encode("the quick"), own.eos_id]
    assert example.loss_mask.tolist() == [False] + [True] * (len(example) - 1)
    found = encode_plain_pair(
        pair({"prompt": "the quick", "chosen": " tokens", "rejected": " words"}), own
    )
    whole = [own.bos_id, *own.encode("the quick tokens"), own.eos_id]
    assert found.chosen.ids.tolist() == whole


LLAMA = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("kind", ["llama 2", "mistral 0.3", "gemma", "unigram with bytes"])
def test_a_conversation_has_the_tokens_of_its_rendered_text(kind):
    """Turn by turn, with no space before each, and BOS once, where the template writes it."""
    from tokenizers import Tokenizer as Library

    own = load(kind).replace_roles(bos=True)
    turns = [("user", "the quick"), ("assistant", "tokens"), ("user", "words"), ("assistant", "of")]
    messages = tuple({"role": role, "content": text} for role, text in turns)
    names = {"bos_token": "<s>", "eos_token": "</s>"}
    encoder = ChatEncoder(own, Template(LLAMA, names=names))
    example = encoder.encode(Conversation(messages, "a.jsonl:1"))
    rendered = "<s>[INST] the quick [/INST] tokens</s>[INST] words [/INST] of</s>"
    library = Library.from_str(json.dumps(json.loads(make_kinds()[kind])))
    assert example.ids.tolist() == library.encode(rendered, add_special_tokens=False).ids
    trained = own.decode(example.ids[example.loss_mask], skip_special=False, continued=True)
    assert trained == " tokens</s> of</s>"
    prompt = encoder.encode_prompt(messages[:3])
    assert prompt == example.ids[: len(prompt)].tolist()

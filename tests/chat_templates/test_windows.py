"""Windows and rendering ahead: quicker, and nothing else than rendering every prefix."""

import numpy as np
import pytest

from hermes.chat_templates import dialogue, renderer
from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.template import Template
from hermes.errors import DataError
from tests.chat_templates.support import NAMES, conversation, encoder_of
from tests.chat_templates.test_dialogue import (
    CHATS,
    REASONING,
    TEMPLATES,
    make_chat,
    make_dialogue,
    say,
)
from tests.chat_templates.test_encoder import LLAMA3

ROUNDS = 16
# Answers of the last 15 rounds are written with a star: something far away decides.
FAR = """\
{%- set users = messages | selectattr('role', 'equalto', 'user') | list | length %}
{%- set ns = namespace(seen=0) %}
{%- for m in messages %}
{%- if m.role == 'user' %}{%- set ns.seen = ns.seen + 1 %}{%- endif %}
{{- '<|im_start|>' + m.role }}
{%- if m.role == 'assistant' and ns.seen > users - 15 %}{{- '*' }}{%- endif %}
{{- m.content + '<|im_end|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant*' }}{%- endif %}"""


def encode(source, turns, tokenizer):
    encoder = ChatEncoder(tokenizer, Template(source, names=NAMES))
    examples = encoder.encode_all(conversation(turns))
    return [
        (example.part, example.ids.tolist(), example.loss_mask.tolist()) for example in examples
    ]


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", [*TEMPLATES, "far"])
def test_examples_are_those_of_whole_prefixes(name, chat, tokenizer, monkeypatch):
    """Also where each turn has an example of its own, whose text nobody rendered as a whole."""
    source = TEMPLATES.get(name, FAR)
    try:
        found = encode(source, CHATS[chat], tokenizer)
    except DataError as error:
        found = str(error)
    monkeypatch.setattr(dialogue, "SHORT", 10**9)
    try:
        expected = encode(source, CHATS[chat], tokenizer)
    except DataError as error:
        expected = str(error)
    assert found == expected


def test_a_template_that_looks_far_back_is_rendered_whole(tokenizer, monkeypatch):
    """The window of a turn in the middle is right in itself; what precedes it would be wrong."""
    turns = make_chat(40)
    assert not make_dialogue(FAR, turns)._trusts_windows
    found = encode(FAR, turns, tokenizer)
    monkeypatch.setattr(dialogue, "SHORT", 10**9)
    assert found == encode(FAR, turns, tokenizer)


def test_rendering_grows_with_the_length_where_every_turn_has_an_example_of_its_own(tokenizer):
    """Of a template that drops earlier reasoning: 4 times the rounds, far less than 16 times."""

    def count_characters(rounds):
        made = make_dialogue(REASONING, make_chat(rounds))
        count = len(made.turns)
        for index in range(count - 1, 0, -2):
            assert made.find_turn(index, index + 1) is not None
            assert index + 1 == count or made.find_turn(index, count) is None
        return sum(map(len, made._texts.values()))

    assert count_characters(160) < 6 * count_characters(40)


@pytest.mark.parametrize("source", [LLAMA3, REASONING])
def test_conversations_are_rendered_ahead_and_nothing_one_by_one(source, tokenizer, monkeypatch):
    encoder = encoder_of(tokenizer, source)
    chats = [conversation(make_chat(rounds)) for rounds in (1, 3, 5, 9, ROUNDS)]
    expected = [encoder.encode_all(chat) for chat in chats]  # and every role is known by now
    asked = []
    monkeypatch.setattr(
        renderer._renderer, "render", lambda *request: asked.append(request) or ["no", None, ""]
    )
    found = list(encoder.encode_many(chats))
    assert not asked
    for one, other in zip(found, expected, strict=True):
        assert all(
            np.array_equal(a.ids, b.ids) and np.array_equal(a.loss_mask, b.loss_mask)
            for a, b in zip(one, other, strict=True)
        )


def test_a_window_that_the_template_refuses_is_not_asked_for_again(tokenizer, monkeypatch):
    """A template that wants the first message to be of the user refuses windows after a system."""
    source = (
        "{% if messages[0].role == 'system' and (messages | length) < 9 and (messages | length) > 1"
        " %}{{ raise_exception('too short') }}{% endif %}" + LLAMA3
    )
    turns = [say("system", "be brief"), *make_chat(8)]
    made = make_dialogue(source, turns)
    keys = made.list_likely()
    ahead = renderer.finish_ahead(made.template.begin_ahead([(made.turns, None, keys)]))
    texts, reads = ahead[0]
    assert None in texts
    made.take_texts(keys, texts, reads)
    asked = []
    monkeypatch.setattr(made.template, "render", lambda *_, **__: asked.append(1) or "")
    monkeypatch.setattr(made.template, "render_marked", lambda *_, **__: asked.append(1) or "")
    assert made._open_window(12) is None
    assert not asked

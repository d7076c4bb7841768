"""Encoding conversations: the loss mask, prompts, and templates that cannot serve."""

import json
from dataclasses import replace

import numpy as np
import pytest

from hermes.chat_templates.example import describe_unread
from hermes.chat_templates.messages import Conversation
from hermes.data.conversations import parse_conversation
from hermes.data.records import Record
from hermes.errors import DataError
from hermes.tokenizer import CHAT_TEMPLATE, Tokenizer
from tests.chat_templates.support import (
    TURNS,
    A,
    U,
    conversation,
    encoder_of,
    spans,
)

LLAMA3 = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    " + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
    "{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate user and assistant') }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'] + eos_token }}"
    "{% endif %}{% endfor %}"
)
GEMMA = (
    "{{ bos_token }}{% for message in messages %}"
    "{% set role = 'model' if message['role'] == 'assistant' else message['role'] %}"
    "{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"
)
ZEPHYR = (
    "{% for message in messages %}\n"
    "{% if message['role'] == 'user' %}\n"
    "{{ '<|user|>\n' + message['content'] + eos_token }}\n"
    "{% elif message['role'] == 'assistant' %}\n"
    "{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
    "{% endif %}\n"
    "{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n"
    "{% endfor %}"
)
MARKED = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ '<|im_start|>assistant\n' }}{% generation %}"
    "{{ message['content'] + '<|im_end|>' }}{% endgeneration %}{{ '\n' }}"
    "{% else %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
TEMPLATES = {
    "chatml": (CHAT_TEMPLATE, "<|im_end|>"),
    "llama 3": (LLAMA3, "<|eot_id|>"),
    "mistral": (MISTRAL, "<|eos|>"),
    "gemma": (GEMMA, "<end_of_turn>"),
    "marked": (MARKED, "<|im_end|>"),
}


@pytest.mark.parametrize("name", TEMPLATES)
def test_exactly_the_assistants_words_and_the_end_of_its_turn_are_learnt(name, tokenizer):
    source, end = TEMPLATES[name]
    example = encoder_of(tokenizer, source).encode(conversation())
    space = " " if name == "mistral" else ""
    assert spans(tokenizer, example) == [f"{space}a model{end}", f"{space}nothing\nmore{end}"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_has_the_tokens_that_training_saw_before_the_answer(name, tokenizer):
    encoder = encoder_of(tokenizer, TEMPLATES[name][0])
    example = encoder.encode(conversation())
    prompt = encoder.encode_prompt(TURNS[:3])
    assert example.ids[: len(prompt)].tolist() == prompt
    assert example.loss_mask[len(prompt)]
    assert encoder.find_end_of_turn() == tokenizer.find_special_id(TEMPLATES[name][1])


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_tokens_are_those_of_the_whole_rendered_text(name, tokenizer):
    """But for the template's last words, after the last turn, of which nothing is learnt."""
    encoder = encoder_of(tokenizer, TEMPLATES[name][0])
    whole = encoder.template.render(TURNS, prompt=False).replace("\ufdd0", "").replace("\ufdd1", "")
    text = tokenizer.decode(encoder.encode(conversation()).ids, skip_special=False)
    assert whole.startswith(text)
    assert whole[len(text) :].strip() == ""


def test_only_later_turns_are_learnt_where_that_is_asked_for(tokenizer):
    for source in (CHAT_TEMPLATE, MARKED):
        later = replace(conversation(), untrained=frozenset(range(2)))
        example = encoder_of(tokenizer, source).encode(later)
        assert spans(tokenizer, example) == ["nothing\nmore<|im_end|>"]


def test_a_turn_may_be_marked_in_pieces(tokenizer):
    """As by TRL's template of Phi-3, which marks an end of text behind the last turn."""
    source = MARKED + (
        "{% if not add_generation_prompt %}{% generation %}{{ eos_token }}{% endgeneration %}"
        "{% endif %}"
    )
    source = source.replace("'<|im_end|>' }}{% endg", "'<|im_end|>\n' }}{% endg")
    source = source.replace("{% endgeneration %}{{ '\n' }}", "{% endgeneration %}")
    example = encoder_of(tokenizer, source).encode(conversation())
    assert spans(tokenizer, example) == [
        "a model<|im_end|>",
        "nothing\nmore<|im_end|>\n<|eos|>",
    ]
    apart = "{% generation %}x{% endgeneration %}y" + source
    with pytest.raises(DataError, match="marks 3 generations for 2 messages"):
        encoder_of(tokenizer, apart).encode(conversation())


def test_all_but_the_first_token_are_learnt_where_the_prompt_counts(tokenizer):
    example = encoder_of(tokenizer, CHAT_TEMPLATE).encode(conversation(), whole=True)
    assert example.loss_mask.tolist() == [False] + [True] * (len(example) - 1)


def test_plain_text_is_learnt_whole_and_ends(tokenizer):
    text = parse_conversation(Record("nothing more", "a.jsonl:1"))
    example = encoder_of(tokenizer, CHAT_TEMPLATE).encode(text)
    assert example.ids.tolist() == [*tokenizer.encode("nothing more"), tokenizer.eos_id]
    assert example.loss_mask.tolist() == [False] + [True] * (len(example) - 1)


WITHOUT_SYSTEM = MISTRAL.replace("{{ raise_exception(", "{{ '' if true else raise_exception(")
REFUSED = {
    "its own refusal": (
        MISTRAL,
        (U, U, A),
        "the chat template refuses the conversation: roles must alternate user and assistant",
    ),
    "a failure": (
        "{% for m in messages %}\n{{ messages[9].content.upper() }}{% endfor %}",
        (U, A),
        "the chat template fails in line 2: list object has no element 9",
    ),
    "an escape": (
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        (U, A),
        "the chat template tries to leave its sandbox in line 1: access to attribute '__class__' "
        "of 'str' object; do not use it",
    ),
    "a change of the messages": (
        "{{ messages.append(1) }}",
        (U, A),
        "the chat template tries to leave its sandbox in line 1: access to attribute 'append' of "
        "'list' object; do not use it",
    ),
    "a role left out": (
        WITHOUT_SYSTEM,
        ({"role": "system", "content": "be brief"}, U, A),
        "the chat template does not know the role 'system': it leaves message 1 out",
    ),
    "turns that change": (
        "{% for m in messages %}{{ m.content if loop.last else '' }}<|eos|>{% endfor %}",
        (U, A, U, A),
        "the chat template renders the text up to message 3 and the prompt differently when more "
        "messages follow, so the assistant's part cannot be found; mark it with {% generation %} "
        "in the template",
    ),
    "no end of turn": (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
        (U, A),
        "the chat template ends the assistant's turn with no special token, so a model could not "
        "learn to stop; write one after the content, such as eos_token",
    ),
    "an end of no token": (
        LLAMA3.replace("eot_id", "eot"),
        (U, A),
        "the chat template ends the assistant's turn with '<|eot|>', which is not a special token "
        "of this tokenizer, so a model could not learn to stop; write one that it has, such as "
        "'<|eos|>', or train a tokenizer with --special-token '<|eot|>'",
    ),
    "a name of one's own at the end": (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}",
        (U, {"role": "assistant", "content": "<b>a</b>"}),
        "the chat template ends the assistant's turn with no special token, so a model could not "
        "learn to stop; write one after the content, such as eos_token",
    ),
    "a character of no one's": (
        CHAT_TEMPLATE,
        ({"role": "user", "content": "\ufdd2"}, A),
        "the text has U+FDD2, which is no character; take it out",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_cannot_serve_is_refused_at_the_conversation(name, tokenizer):
    source, turns, message = REFUSED[name]
    with pytest.raises(DataError) as refused:
        encoder_of(tokenizer, source).encode(conversation(turns))
    assert str(refused.value) == f"chat.jsonl:3: {message}"


def test_a_template_that_cannot_serve_is_named_once_where_no_file_is_read(tokenizer):
    with pytest.raises(DataError, match=r"^the chat template ends the assistant's turn with no"):
        encoder_of(tokenizer, REFUSED["no end of turn"][0]).find_end_of_turn()


def test_calls_and_tools_that_the_template_has_no_word_for_are_refused(tokenizer):
    """They would be lost without a word."""
    calls = {"role": "assistant", "content": "wait", "tool_calls": [{"function": {"name": "f"}}]}
    made = encoder_of(tokenizer, CHAT_TEMPLATE)
    with pytest.raises(DataError) as refused:
        made.encode(conversation((U, calls, A)))
    assert str(refused.value) == (
        "chat.jsonl:3: message 2 has 'tool_calls', which the chat template does not write; give a "
        "template that does with --template, or the call as content"
    )
    with pytest.raises(DataError, match=r"^chat\.jsonl:3: the record has 'tools', which the chat"):
        made.encode(Conversation((U, A), "chat.jsonl:3", tools=({"name": "f"},)))
    assert made.encode(conversation((U, {**A, "tool_calls": []}))).loss_mask.any()


def test_zephyrs_answers_do_not_follow_its_question(tokenizer):
    """Its question lacks the line end that an answer has before it: the prefix is right."""
    example = encoder_of(tokenizer, ZEPHYR).encode(conversation())
    assert spans(tokenizer, example) == ["a model<|eos|>", "nothing\nmore<|eos|>"]


CALLING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}{{ m.content or '' }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }} ARGUMENTS{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
BY_JSON = CALLING.replace("ARGUMENTS", "{{ c.function.arguments | tojson }}")
AS_GIVEN = CALLING.replace("ARGUMENTS", "{{ c.function.arguments }}")
BY_NAME = CALLING.replace(
    "ARGUMENTS", "{% for k, v in c.function.arguments.items() %}{{ k }}={{ v }}{% endfor %}"
)


@pytest.mark.parametrize("arguments", [{"city": "Oslo"}, '{"city": "Oslo"}'])
def test_arguments_of_calls_are_written_once_as_json_however_they_are_given(arguments, tokenizer):
    call = {"type": "function", "function": {"name": "f", "arguments": arguments}}
    turns = (U, {"role": "assistant", "content": None, "tool_calls": [call]}, U, A)

    def write(source):
        return spans(tokenizer, encoder_of(tokenizer, source).encode(conversation(turns)))[0]

    assert write(BY_JSON) == write(AS_GIVEN) == 'f {"city": "Oslo"}<|im_end|>'
    assert write(BY_NAME) == "f city=Oslo<|im_end|>"


def test_fields_of_messages_that_the_template_does_not_read_are_counted(tokenizer):
    turns = ({**U, "name": "Ann", "id": 7}, {**A, "name": "Bob", "tool_calls": []})
    made = encoder_of(tokenizer, CHAT_TEMPLATE)
    made.encode(conversation(turns))
    assert made.unread == {"'name' of messages": 2, "'id' of messages": 1}
    assert describe_unread(made.unread) == [
        "fields that are not read: 'name' of messages (2), 'id' of messages (1)"
    ]
    name = "message['role'] + (message.name if message['role'] == 'user' else '') +"
    named = encoder_of(tokenizer, CHAT_TEMPLATE.replace("message['role'] +", name))
    named.encode(conversation(turns))
    assert named.unread == {"'id' of messages": 1, "'name' of messages": 1}  # the answer's
    assert describe_unread({}) == []


def test_turns_that_are_context_only_are_not_trained_on(tokenizer):
    for later in ({"untrained": frozenset({3})}, {"weights": {3: 0.0}}):
        for source in (CHAT_TEMPLATE, MARKED):
            example = encoder_of(tokenizer, source).encode(replace(conversation(), **later))
            assert spans(tokenizer, example) == ["a model<|im_end|>"]
            assert example.weights is None


def test_where_all_tokens_count_a_turn_of_weight_zero_does_not(tokenizer):
    for source in (CHAT_TEMPLATE, MARKED):
        silent = replace(conversation(), weights={1: 0.0})
        example = encoder_of(tokenizer, source).encode(silent, whole=True)
        words = " ".join(spans(tokenizer, example))
        assert "a model" not in words
        assert "and then?" in words
        assert "nothing" in words


def test_weights_of_records_and_of_turns_multiply(tokenizer):
    heavy = replace(conversation(), weight=2.0, weights={1: 0.25})
    example = encoder_of(tokenizer, CHAT_TEMPLATE).encode(heavy)
    assert example.weights.dtype == np.float32
    assert sorted(set(example.weights.tolist())) == [0.0, 0.5, 2.0]
    assert (example.weights > 0).tolist() == example.loss_mask.tolist()
    first = tokenizer.decode(example.ids[example.weights == 0.5], skip_special=False)
    assert first == "a model<|im_end|>"
    text = replace(parse_conversation(Record("nothing", "a:1")), weight=3.0)
    example = encoder_of(tokenizer, CHAT_TEMPLATE).encode(text)
    assert example.weights.tolist() == [0.0] + [3.0] * (len(example) - 1)


def test_what_the_vocabulary_lacks_does_not_end_a_turn():
    """A tokenizer without the newline that ChatML writes behind a turn gives <unk> for it."""
    marks = ("<unk>", "<|im_start|>", "<|im_end|>")
    plain = [chr(0x2581), *"abcdefghijklmnopqrstuvwxyz"]
    space = {"type": "Replace", "pattern": {"String": " "}, "content": chr(0x2581)}
    back = {"type": "Replace", "pattern": {"String": chr(0x2581)}, "content": " "}
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    config = {
        "version": "1.0", "truncation": None, "padding": None, "normalizer": space,
        "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [back, {"type": "Fuse"}]},
        "added_tokens": [
            {"id": n, "content": name, "special": True, **flags} for n, name in enumerate(marks)
        ],
        "model": {
            "type": "Unigram", "unk_id": 0, "byte_fallback": False,
            "vocab": [["<unk>", 0.0], *([piece, -1.0] for piece in (*marks[1:], *plain))],
        },
    }  # fmt: skip
    tokenizer = Tokenizer.from_json(json.dumps(config))
    example = encoder_of(tokenizer, CHAT_TEMPLATE).encode(conversation((U, A)))
    last = np.flatnonzero(example.loss_mask)[-1]
    assert tokenizer.get_name(int(example.ids[last])) == "<|im_end|>"
    assert tokenizer.unk_id in example.ids

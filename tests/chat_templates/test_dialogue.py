"""Finding turns: quickly as by rendering every prefix, and where a template changes its mind."""

import json
import time

import pytest

from hermes.chat_templates.dialogue import Dialogue
from hermes.chat_templates.encoder import ChatEncoder
from hermes.chat_templates.guard import guard_messages
from hermes.chat_templates.template import Template, parse_template_args
from hermes.chat_templates.text_encoder import NO_NAMES
from hermes.errors import DataError
from hermes.tokenizer import CHAT_TEMPLATE, train_tokenizer
from tests.chat_templates.support import NAMES, SPECIAL, conversation, encoder_of, spans
from tests.chat_templates.test_encoder import GEMMA, LLAMA3, MISTRAL, ZEPHYR
from tests.waiting import wait_until

# In the manner of Qwen3: reasoning stays in the last round alone, which always has a block of it.
REASONING = """\
{%- set ns = namespace(last=0) %}
{%- for m in messages %}{%- if m.role == 'user' %}{%- set ns.last = loop.index0 %}{%- endif %}
{%- endfor %}
{%- for m in messages %}
{%- if m.role == 'assistant' %}
{%- set said = m.content.split('</think>')[-1].lstrip('\\n') %}
{%- set thought = m.content.split('</think>')[0].split('<think>')[-1].strip('\\n') %}
{{- '<|im_start|>assistant\\n' }}
{%- if loop.index0 > ns.last %}
{{- '<think>\\n' + (thought if '</think>' in m.content else '') + '\\n</think>\\n\\n' }}
{%- endif %}
{{- said + '<|im_end|>\\n' }}
{%- else %}
{{- '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\\n\\n</think>\\n\\n' }}
{%- endif %}
{%- endif %}"""
# In the manner of Mistral: the tools stand before the last question.
TOOLS_LAST = """\
{%- set users = messages | selectattr('role', 'equalto', 'user') | list %}
{%- for m in messages %}
{%- if m.role == 'user' %}
{%- if tools and m == users[-1] %}{{- '[TOOLS]' + tools | tojson }}{%- endif %}
{{- '[INST]' + m.content + '[/INST]' }}
{%- else %}{{- m.content + eos_token }}{%- endif %}
{%- endfor %}"""
# In the manner of GLM: the next role's token ends a turn.
OPEN_TURNS = """\
{%- for m in messages %}{{- '<|' + m.role + '|>' + m.content }}{%- endfor %}
{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"""
# In the manner of Phi-3: more follows where nobody is asked.
ENDING = """\
{%- for m in messages %}{{- '<|' + m.role + '|>' + m.content + '<|im_end|>\\n' }}{%- endfor %}
{{- '<|assistant|>' if add_generation_prompt else eos_token }}"""
# The number of messages stands before each.
COUNTING = "{% for m in messages %}{{ messages | length }} {{ m.content }}<|im_end|>{% endfor %}"
TEMPLATES = {
    "chatml": CHAT_TEMPLATE,
    "llama 3": LLAMA3,
    "mistral": MISTRAL,
    "gemma": GEMMA,
    "zephyr": ZEPHYR,
    "reasoning": REASONING,
    "tools last": TOOLS_LAST,
    "open turns": OPEN_TURNS,
    "ending": ENDING,
    "counting": COUNTING,
}
TOOLS = ({"type": "function", "function": {"name": "f", "parameters": {}}},)


def say(role, content):
    return {"role": role, "content": content}


def make_chat(rounds, thought=""):
    return [
        say(role, f"{thought if role == 'assistant' else ''}{word} {i}")
        for i in range(rounds)
        for role, word in (("user", "question"), ("assistant", "answer"))
    ]


def make_traces(rounds):
    """Agents: after a question some calls with their results, then an answer."""
    turns = [say("system", "be brief")]
    for i in range(rounds):
        turns.append(say("user", f"question {i}"))
        for k in range(2 + 5 * i % 11):
            turns += [say("assistant", f"call {k}"), say("tool", f"result {k}")]
        turns.append(say("assistant", f"answer {i}"))
    return turns


CHATS = {
    "a chat": make_chat(20),
    "with reasoning": make_chat(20, "<think>\nhm\n</think>\n\n"),
    "with a system prompt": [say("system", "be brief"), *make_chat(20)],
    "an agent": make_traces(5),
}


def make_dialogue(source, turns, tools=None, **settings):
    template = Template(source, names=NAMES)
    guarded = guard_messages(turns, NO_NAMES)
    return Dialogue(template, guarded.turns, tools, **settings)


@pytest.mark.parametrize("chat", CHATS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_turns_are_those_of_the_prefixes_one_by_one(name, chat):
    """A window of near messages never finds what whole prefixes do not."""
    turns, tools = CHATS[chat], TOOLS if name == "tools last" else None
    made = make_dialogue(TEMPLATES[name], turns, tools, is_ended=lambda text: "<|im_end|>" in text)
    answers = [i for i, turn in enumerate(turns) if turn["role"] == "assistant"]
    try:
        whole = made.render(len(turns), prompt=False)
    except DataError:
        pytest.skip("the template takes no such conversation")
    found = [made.find_turn(i, len(turns)) for i in answers]
    assert found == [made._find_exactly(i, len(turns), False) for i in answers]
    assert found[-1] is not None or name == "counting"
    if name in ("chatml", "llama 3", "gemma", "open turns", "ending"):
        assert all(found)
        texts = [whole[begin:end] for begin, end in found]
        assert all(turns[i]["content"] in text for i, text in zip(answers, texts, strict=True))
    if name in ("reasoning", "tools last", "counting"):
        assert not all(found)


def test_windows_that_disagree_with_a_prefix_are_not_trusted():
    """A template that looks ten messages ahead: near messages cannot tell."""
    source = (
        "{% for m in messages %}{{ '*' if loop.revindex0 >= 10 and m.role == 'assistant' }}"
        "{{ m.content }}<|im_end|>{% endfor %}"
    )
    turns = make_chat(20)
    made = make_dialogue(source, turns)
    found = [made.find_turn(i, len(turns)) for i in range(1, 40, 2)]
    assert found == [made._find_exactly(i, len(turns), False) for i in range(1, 40, 2)]


def encode_all(source, turns, tokenizer, **arguments):
    template = Template(source, names=NAMES, arguments=arguments)
    examples = ChatEncoder(tokenizer, template).encode_all(conversation(turns))
    return examples, [spans(tokenizer, example) for example in examples]


THINKING = (
    say("user", "who?"),
    say("assistant", "<think>\nhm\n</think>\n\nme"),
    say("user", "and?"),
    say("assistant", "more"),
)


def test_a_turn_that_is_rendered_otherwise_later_has_an_example_of_its_own(tokenizer):
    """So each is trained on as it is generated, after what precedes it then."""
    examples, learnt = encode_all(REASONING, THINKING, tokenizer)
    assert learnt == [
        ["<think>\nhm\n</think>\n\nme<|im_end|>"],
        ["<think>\n\n</think>\n\nmore<|im_end|>"],
    ]
    assert [example.part for example in examples] == [0, 1]
    second = tokenizer.decode(examples[1].ids, skip_special=False)
    assert "hm" not in second
    prompt = encoder_of(tokenizer, REASONING).encode_prompt(THINKING[:3])
    assert examples[1].ids[: len(prompt)].tolist() == prompt


def test_one_example_is_refused_where_two_would_be_needed(tokenizer):
    with pytest.raises(DataError, match=r"chat\.jsonl:3: the chat template renders the text up to"):
        encoder_of(tokenizer, REASONING).encode(conversation(THINKING))


def test_arguments_of_the_template_decide_what_is_asked_and_what_is_trained_on(tokenizer):
    plain = (say("user", "who?"), say("assistant", "me"), *THINKING[2:])
    _, learnt = encode_all(REASONING, plain, tokenizer, enable_thinking=False)
    assert learnt == [["me<|im_end|>"], ["more<|im_end|>"]]
    with pytest.raises(DataError) as refused:
        encode_all(REASONING, THINKING, tokenizer, enable_thinking=False)
    assert str(refused.value) == (
        r"chat.jsonl:3: the chat template asks for an answer with "
        r"'<|im_start|>assistant\n<think>\n\n</think>\n\n', and message 2 is not rendered with "
        "that before it; leave out --template-arg enable_thinking=false, or the reasoning of the "
        "answers, or mark what the assistant says with {% generation %} in the template"
    )
    with pytest.raises(DataError) as refused:
        encode_all(REASONING, plain, tokenizer, enable_thinkin=False)
    assert str(refused.value) == (
        "the chat template reads no argument 'enable_thinkin'; did you mean 'enable_thinking'?"
    )


@pytest.mark.parametrize(
    ("word", "value"), [("False", "false"), ("True", "true"), ("None", "null")]
)
def test_words_of_python_are_no_values_of_arguments(word, value):
    """As text, which is true, False would turn reasoning on."""
    assert parse_template_args([f"a={value}"]) == {"a": json.loads(value)}
    assert parse_template_args([f'a="{word}"']) == {"a": word}
    with pytest.raises(DataError) as refused:
        parse_template_args([f"a={word}"])
    assert str(refused.value) == (
        f"template argument 'a={word}': values are JSON; write a={value}, or a='\"{word}\"' for "
        "that word"
    )


def test_a_turn_may_be_ended_by_the_token_of_the_next_role():
    """As GLM's: generation stops there, at the user's token or a tool's."""
    roles = ("<|user|>", "<|assistant|>", "<|tool|>")
    tokenizer = train_tokenizer(
        ["who are you? a model\n"] * 9, vocab_size=300, special_tokens=(*SPECIAL, *roles)
    )
    turns = (*make_chat(1), say("tool", "5"), say("assistant", "so"))
    encoder = encoder_of(tokenizer, OPEN_TURNS)
    example = encoder.encode(conversation(turns))
    assert spans(tokenizer, example) == ["answer 0<|tool|>", "so<|user|>"]
    assert encoder.find_end_of_turn() == tokenizer.find_special_id("<|user|>")


def test_a_special_token_with_words_after_it_does_not_end_the_turn(tokenizer):
    source = (
        "{% for m in messages %}{{ '<|im_start|>' + m.role }}"
        "{{ '<|pad|>' if m.role == 'assistant' }}{{ m.content }}{% endfor %}"
        "{{ '<|im_start|>assistant' if add_generation_prompt }}"
    )
    example = encoder_of(tokenizer, source).encode(conversation())
    assert spans(tokenizer, example) == [
        "<|pad|>a model<|im_start|>",
        "<|pad|>nothing\nmore<|im_start|>",
    ]


def test_the_time_of_a_conversation_grows_with_its_length(tokenizer):
    """Not with the square: of 8 times the turns it takes far less than 64 times as long."""

    def measure(rounds):
        encoder, chat = encoder_of(tokenizer, LLAMA3), conversation(make_chat(rounds))
        encoder.encode(chat)
        begin = time.thread_time()
        encoder.encode(chat)
        return time.thread_time() - begin

    # A machine that does other things has measurements that say nothing, but not all of them.
    wait_until(lambda: measure(320) < 20 * min(measure(40) for _ in range(3)))

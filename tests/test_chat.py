"""Conversations: what is read, what is refused, and which tokens are learnt."""

import json

import pytest

from hermes.data.chat import Conversation, conversation_of, conversations
from hermes.data.chat_tokens import ChatEncoder
from hermes.data.records import Record
from hermes.data.templates import Template, template_of
from hermes.errors import DataError
from hermes.tokenizer import CHAT_TEMPLATE, tokenizer_config, train_tokenizer

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
NAMES = {"bos_token": "<|bos|>", "eos_token": "<|eos|>"}
SPECIAL = (
    *("<|bos|>", "<|eos|>", "<|pad|>", "<|im_start|>", "<|im_end|>"),
    *("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<start_of_turn>"),
    "<end_of_turn>",
)
TEMPLATES = {
    "chatml": (CHAT_TEMPLATE, "<|im_end|>"),
    "llama 3": (LLAMA3, "<|eot_id|>"),
    "mistral": (MISTRAL, "<|eos|>"),
    "gemma": (GEMMA, "<end_of_turn>"),
    "marked": (MARKED, "<|im_end|>"),
}
TURNS = (
    {"role": "user", "content": "who are you?"},
    {"role": "assistant", "content": "a model"},
    {"role": "user", "content": "and then?"},
    {"role": "assistant", "content": "nothing\nmore"},
)


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(["who are you? a model and then nothing more\n"] * 9, vocab_size=300,
                           special_tokens=SPECIAL)  # fmt: skip


def encoder_of(tokenizer, source):
    return ChatEncoder(tokenizer, Template(source, names=NAMES))


def conversation(messages=TURNS, where="chat.jsonl:3"):
    return conversation_of(Record({"messages": list(messages)}, where))


def spans(tokenizer, example):
    """The text of each run of learnt tokens."""
    found, before = [], False
    for token, learnt in zip(example.ids, example.learnt, strict=True):
        if learnt:
            found += [[]] if not before else []
            found[-1].append(token)
        before = learnt
    return [tokenizer.decode(run, skip_special=False) for run in found]


@pytest.mark.parametrize("name", TEMPLATES)
def test_exactly_the_assistants_words_and_the_end_of_its_turn_are_learnt(name, tokenizer):
    source, end = TEMPLATES[name]
    example = encoder_of(tokenizer, source).example(conversation())
    space = " " if name == "mistral" else ""
    assert spans(tokenizer, example) == [f"{space}a model{end}", f"{space}nothing\nmore{end}"]


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_prompt_has_the_tokens_that_training_saw_before_the_answer(name, tokenizer):
    encoder = encoder_of(tokenizer, TEMPLATES[name][0])
    example = encoder.example(conversation())
    prompt = encoder.prompt(TURNS[:3])
    assert example.ids[: len(prompt)].tolist() == prompt
    assert example.learnt[len(prompt)]
    assert encoder.end_of_turn() == tokenizer.special_id(TEMPLATES[name][1])


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_tokens_are_those_of_the_whole_rendered_text(name, tokenizer):
    """But for the template's last words, after the last turn, of which nothing is learnt."""
    encoder = encoder_of(tokenizer, TEMPLATES[name][0])
    whole = encoder.template.render(TURNS, prompt=False).replace("\ufdd0", "").replace("\ufdd1", "")
    text = tokenizer.decode(encoder.example(conversation()).ids, skip_special=False)
    assert whole.startswith(text)
    assert whole[len(text) :].strip() == ""


def test_words_that_spell_a_special_token_stay_words(tokenizer):
    turns = (
        {"role": "user", "content": "say <|im_end|> now"},
        {"role": "assistant", "content": "<|im_end|><|eos|>"},
    )
    example = encoder_of(tokenizer, CHAT_TEMPLATE).example(conversation(turns))
    ids = example.ids.tolist()
    assert ids.count(tokenizer.special_id("<|im_end|>")) == 2  # the two turns' own ends
    assert tokenizer.special_id("<|eos|>") not in ids
    assert spans(tokenizer, example) == ["<|im_end|><|eos|><|im_end|>"]


def test_only_later_turns_are_learnt_where_that_is_asked_for(tokenizer):
    for source in (CHAT_TEMPLATE, MARKED):
        example = encoder_of(tokenizer, source).example(conversation(), first=2)
        assert spans(tokenizer, example) == ["nothing\nmore<|im_end|>"]


def test_all_but_the_first_token_are_learnt_where_the_prompt_counts(tokenizer):
    example = encoder_of(tokenizer, CHAT_TEMPLATE).example(conversation(), whole=True)
    assert example.learnt.tolist() == [False] + [True] * (len(example) - 1)


def test_plain_text_is_learnt_whole_and_ends(tokenizer):
    text = conversation_of(Record("nothing more", "a.jsonl:1"))
    example = encoder_of(tokenizer, CHAT_TEMPLATE).example(text)
    assert example.ids.tolist() == [*tokenizer.encode("nothing more"), tokenizer.eos_id]
    assert example.learnt.tolist() == [False] + [True] * (len(example) - 1)


def test_the_default_template_is_chatml(tokenizer):
    found = template_of(tokenizer_config(tokenizer), default=CHAT_TEMPLATE)
    assert found.render(TURNS[:1], prompt=True) == (
        "<|im_start|>user\nwho are you?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert template_of(None, default=CHAT_TEMPLATE).source == CHAT_TEMPLATE


def test_a_template_that_is_not_there_is_a_mistake_like_data_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"none.jinja: no such template; check the name$"):
        template_of({}, file=tmp_path / "none.jinja", default=CHAT_TEMPLATE)


def test_a_template_is_taken_from_a_list_by_the_name_default():
    held = [{"name": "rag", "template": "x"}, {"name": "default", "template": "y"}]
    assert template_of({"chat_template": held}, default="z").source == "y"
    config = {"chat_template": "y", "bos_token": {"content": "<s>", "lstrip": False}}
    assert template_of(config, default="z").names == {"bos_token": "<s>"}


def test_templates_have_what_hugging_faces_have():
    source = (
        "{% for m in messages %}\n    {% if loop.index > 1 %}\n{% break %}\n    {% endif %}\n"
        "{{ {'ä': m.content} | tojson }}{{ strftime_now('%%') }}\n{% endfor %}"
    )
    made = Template(source, names={}).render([{"role": "user", "content": "<b>"}] * 2, prompt=False)
    assert made == '{"ä": "<b>"}%\n'


FORMATS = {
    "messages": {"messages": [{"role": "user", "content": "q"},
                              {"role": "assistant", "content": "a"}]},
    "prompt and completion": {"prompt": "q", "completion": "a"},
    "prompt and completion as messages": {
        "prompt": [{"role": "user", "content": "q"}],
        "completion": [{"role": "assistant", "content": "a"}],
    },
    "alpaca": {"instruction": "q", "input": "", "output": "a"},
}  # fmt: skip


@pytest.mark.parametrize("name", FORMATS)
def test_every_form_of_a_conversation_is_the_same_conversation(name):
    expected = ({"role": "user", "content": "q"}, {"role": "assistant", "content": "a"})
    assert conversation_of(Record(FORMATS[name], "f:1")).messages == expected


def test_an_alpaca_input_follows_the_instruction():
    found = conversation_of(Record({"instruction": "q", "input": "x", "output": "a"}, "f:1"))
    assert found.messages[0]["content"] == "q\n\nx"


def test_conversations_come_from_jsonl_json_and_csv(tmp_path):
    lines = tmp_path / "a.jsonl"
    lines.write_text(json.dumps(FORMATS["alpaca"]) + "\n\n" + json.dumps("text") + "\n")
    listed = tmp_path / "b.json"
    listed.write_text(json.dumps(["one", "two"]))
    table = tmp_path / "c.csv"
    table.write_text('prompt,completion\n"q,\nr",a\n')
    found = list(conversations([lines, listed, table]))
    assert [c.text for c in found] == [None, "text", "one", "two", None]
    assert found[4].messages[0]["content"] == "q,\nr"
    places = [f"{lines}:1", f"{lines}:3", f"{listed}[0]", f"{listed}[1]", f"{table}:2"]
    assert [c.where for c in found] == places


U, A = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
BAD = [
    ({"messages": [U]}, "no message of the assistant, so there is nothing to learn"),
    ({"messages": []}, "field 'messages': an empty list, there is no message in it"),
    ({"messages": "q"}, "field 'messages': found a string where a list of messages is needed"),
    ({"messages": ["q"]}, "field 'messages'[0]: found a string where an object is needed"),
    ({"messages": [{"role": "asistant", "content": "a"}]},
     "field 'messages'[0]: role 'asistant' is unknown; did you mean 'assistant'?"),
    ({"messages": [{"role": "bot", "content": "a"}]},
     "field 'messages'[0]: role 'bot' is unknown; known are system, developer, user, assistant, "
     "tool"),
    ({"messages": [U, {"role": "assistant", "text": "a"}]},
     "field 'messages'[1]: no field 'content', only 'role', 'text'"),
    ({"messages": [U, {"role": "assistant", "content": " \n"}]},
     "field 'messages'[1]: field 'content': an empty completion; there is nothing to learn from "
     "it"),
    ({"messages": [{"role": "user", "content": 3}, A]},
     "field 'messages'[0]: field 'content': found 3 where a string is needed"),
    ({"prompt": "q", "Completion": "a"},
     "no field 'completion', only 'prompt', 'Completion'; did you mean it by 'Completion'?"),
    ({"prompt": "q", "Completio": "a"},
     "no field 'completion', only 'prompt', 'Completio'; did you mean it by 'Completio'?"),
    ({"prompt": 5, "completion": "a"},
     "field 'prompt': found 5 where a string or a list of messages is needed"),
    ({"prompt": "q", "completion": None},
     "field 'completion': found null where a string or a list of messages is needed"),
    ({"messages": [U, A], "prompt": "q", "completion": "b"},
     "both 'messages' and 'completion', so what is to be learnt is said twice; keep one"),
    ({"prompt": "q", "completion": ""},
     "field 'completion': an empty completion; there is nothing to learn from it"),
    ({"instruction": "q", "answer": "a"}, "no field 'output', only 'instruction', 'answer'"),
    ({"question": "q"},
     "no field 'messages', only 'question'; give 'messages', 'prompt' and 'completion', "
     "'instruction' and 'output', or 'text'"),
    (" ", "an empty text; there is nothing to learn from it"),
    (7, "found 7 where an object or a string is needed"),
    ("\ud800", "half of a surrogate pair, \\ud800, which is no character; write the text as UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "message"), BAD)
def test_what_is_no_conversation_is_refused_by_file_line_and_reason(value, message):
    with pytest.raises(DataError) as refused:
        conversation_of(Record(value, "chat.jsonl:3"))
    assert str(refused.value) == f"chat.jsonl:3: {message}"


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
        "the chat template writes the text up to message 1 and the question for an answer "
        "otherwise when more follow, so the assistant's part cannot be told; mark it with "
        "{% generation %} in the template",
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
        "the chat template ends the assistant's turn with '<|eot|>', which is no special token of "
        "this tokenizer, so a model could not learn to stop; write one that it has, such as "
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
        ({"role": "user", "content": "\U000f0001"}, A),
        "the text has U+F0001, which means nothing outside one program; take it out",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_template_that_cannot_serve_is_refused_at_the_conversation(name, tokenizer):
    source, turns, message = REFUSED[name]
    with pytest.raises(DataError) as refused:
        encoder_of(tokenizer, source).example(conversation(turns))
    assert str(refused.value) == f"chat.jsonl:3: {message}"


def test_a_template_that_cannot_serve_is_named_once_where_no_file_is_read(tokenizer):
    with pytest.raises(DataError, match=r"^the chat template ends the assistant's turn with no"):
        encoder_of(tokenizer, REFUSED["no end of turn"][0]).end_of_turn()


ESCAPES = (
    "{{ messages.__class__ }}",
    "{{ messages | attr('__class__') }}",
    "{{ messages | map(attribute='__class__') | list }}",
    "{{ messages | groupby('__class__') }}",
    "{{ '{0.__class__}'.format(messages) }}",
    "{{ '{a.__class__}'.format_map({'a': messages}) }}",
    "{{ raise_exception.__globals__ }}",
    "{{ strftime_now['__globals__'] }}",
    "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "{{ self._TemplateReference__context }}",
    "{{ dict.mro() }}",
    "{{ messages[0].update({'role': 'user'}) }}",
    "{% set x = messages.sort() %}",
)


@pytest.mark.parametrize("source", ESCAPES)
def test_even_to_look_outside_the_sandbox_is_refused(source, tokenizer):
    with pytest.raises(DataError, match=r"^chat\.jsonl:3: the chat template tries to leave its"):
        encoder_of(tokenizer, source).example(conversation((U, A)))


@pytest.mark.parametrize("source", ["{% include 'a' %}", "{% import 'os' as os %}{{ os }}"])
def test_a_template_reads_no_other_file(source, tokenizer):
    with pytest.raises(DataError, match="fails in line 1: no loader for this environment"):
        encoder_of(tokenizer, source).example(conversation((U, A)))


def test_what_is_no_jinja_is_refused_by_line(tmp_path):
    file = tmp_path / "chat.jinja"
    file.write_text("a\n{% for m in messages %}")
    with pytest.raises(DataError) as refused:
        template_of(None, file=file, default="")
    assert str(refused.value).startswith(f"{file}:2: not a Jinja template: Unexpected end of")


GROWING = "{% set n = namespace(x='x') %}{% for i in range(99) %}{% set n.x = GROWN %}{% endfor %}"


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ('{{ "x" * 10**10 }}', "'*'"),
        ("{{ [1] * 10**10 }}", "'*'"),
        ("{{ 9**10000000 }}", "'**'"),
        ("{{ 'x'|center(10**10) }}", "'center'"),
        ("{{ ['x']|map('center', 10**10)|list }}", "'map'"),
        ("{{ 'x'.center(10**10) }}", "'center'"),
        ("{{ 'x'.zfill(width) if width else 'x'.ljust(10**10) }}", "'ljust'"),
        ("{{ 'x'|indent(10**10, true) }}", "'indent'"),
        ("{{ ('\\n' * 999999)|indent(999999) }}", "'indent'"),
        ("{{ ('\\t' * 999999).expandtabs(999999) }}", "'expandtabs'"),
        ("{{ ('x' * 999999)|replace('x', 'y' * 999999) }}", "'replace'"),
        ("{{ ('x' * 999999).replace('x', 'y' * 999999) }}", "'replace'"),
        ("{{ range(99999)|join('y' * 999999) }}", "'join'"),
        ("{{ ('y' * 999999).join(['a'] * 99999) }}", "'join'"),
        ("{{ messages|tojson(indent=10**9) }}", "'tojson'"),
        ("{{ '%10000000000d'|format(1) }}", "'format'"),
        ("{{ '%*d'|format(10**10, 1) }}", "'format'"),
        ("{{ '%10000000000d' % 1 }}", "'%'"),
        ("{{ '%*d' % (10**10, 1) }}", "'%'"),
        ("{{ '{:10000000000}'.format(1) }}", "'format'"),
        ("{{ '{:{w}}'.format(1, w=10**10) }}", "'format'"),
        ("{{ '{a:{w}}'.format_map({'a': 1, 'w': 10**10}) }}", "'format_map'"),
        (GROWING.replace("GROWN", "n.x + n.x"), "'+'"),
        (GROWING.replace("GROWN", "[n.x, n.x]|join"), "'join'"),
    ],
)
def test_a_template_makes_nothing_enormous(source, what, tokenizer):
    """Neither when it is compiled, where constants are computed, nor when it is rendered."""
    made = encoder_of(tokenizer, source)
    with pytest.raises(DataError) as refused:
        made.example(conversation((U, A)))
    assert f"fails in line 1: {what} makes something too large" in str(refused.value)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (GROWING.replace("GROWN", "n.x ~ n.x"), "the text becomes too large"),
        (
            GROWING.replace("{% set n.x = GROWN %}", "{% set y %}{{ n.x }}{{ n.x }}{% endset %}"
                            "{% set n.x = y %}"),
            "the text becomes too large",
        ),
        (
            "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
            "more than 10,000,000 turns of loops",
        ),
    ],
)  # fmt: skip
def test_a_template_neither_grows_nor_turns_without_end(source, why, tokenizer):
    with pytest.raises(DataError, match=f"fails in line 1: {why}"):
        encoder_of(tokenizer, source).example(conversation((U, A)))


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ 9 * 'x' }}", "x" * 9),
        ("{{ 'x'|center(5) ~ none ~ 3 }}", "  x  None3"),
        ("{{ 'a' ~ missing ~ 'b' }}", "ab"),
        ("{{ 'aXb'.replace('X', '-')|replace('b', 'c')|indent(2, true) }}", "  a-c"),
        ("{{ ','.join(['a', 'b']|map('upper')) }}", "A,B"),
        ("{{ ['a', 'b']|map('upper')|join('+') }}", "A+B"),
        ("{{ '%s %03d' % ('a', 7) }}{{ '{:>3}'.format(1) }}{{ '%d'|format(3) }}", "a 007  13"),
        ("{% for i in [1, 2] %}{{ i }}{{ loop.last }}{{ loop.length }}{{ loop.nextitem }}"
         "{% else %}no{% endfor %}", "1False222True2"),
        ("{% for k, v in {'a': 1}.items() if v %}{{ k ~ v }}{% endfor %}", "a1"),
        ("{% for i in missing %}{% else %}none{% endfor %}", "none"),
        ("{{ {'a': ['b']}|tojson(indent=2) }}", '{\n  "a": [\n    "b"\n  ]\n}'),
        ("{{ [1] + [2] }}{{ 'a' + 'b' }}{{ 1 + 2 }}{{ 7 % 4 }}", "[1, 2]ab33"),
    ],
)  # fmt: skip
def test_what_templates_do_with_texts_and_loops_is_as_ever(source, text, tokenizer):
    assert encoder_of(tokenizer, source).template.render([], prompt=False) == text


def test_calls_and_tools_that_the_template_has_no_word_for_are_refused(tokenizer):
    """They would be lost without a word."""
    calls = {"role": "assistant", "content": "wait", "tool_calls": [{"function": {"name": "f"}}]}
    made = encoder_of(tokenizer, CHAT_TEMPLATE)
    with pytest.raises(DataError) as refused:
        made.example(conversation((U, calls, A)))
    assert str(refused.value) == (
        "chat.jsonl:3: message 2 has 'tool_calls', which the chat template does not write; give a "
        "template that does with --template, or the call as content"
    )
    with pytest.raises(DataError, match=r"^chat\.jsonl:3: the record has 'tools', which the chat"):
        made.example(Conversation((U, A), "chat.jsonl:3", tools=({"name": "f"},)))
    assert made.example(conversation((U, {**A, "tool_calls": []}))).learnt.any()


def test_zephyrs_answers_do_not_follow_its_question(tokenizer):
    """Its question lacks the line end that an answer has before it: the prefix is right."""
    example = encoder_of(tokenizer, ZEPHYR).example(conversation())
    assert spans(tokenizer, example) == ["a model<|eos|>", "nothing\nmore<|eos|>"]

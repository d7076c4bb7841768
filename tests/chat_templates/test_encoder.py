"""Conversations: what is read, what is refused, and which tokens are learnt."""

import json

import pytest

from hermes.chat_templates.messages import Conversation
from hermes.chat_templates.template import Template, choose_template
from hermes.data.conversations import parse_conversation, read_conversations
from hermes.data.records import Record
from hermes.errors import DataError
from hermes.tokenizer import CHAT_TEMPLATE, build_tokenizer_config
from tests.chat_templates.support import TURNS, A, U, chat_tokenizer, conversation, encoder_of

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


@pytest.fixture
def tokenizer():
    return chat_tokenizer()


def spans(tokenizer, example):
    """The text of each run of learnt tokens."""
    found, before = [], False
    for token, learnt in zip(example.ids, example.loss_mask, strict=True):
        if learnt:
            found += [[]] if not before else []
            found[-1].append(token)
        before = learnt
    return [tokenizer.decode(run, skip_special=False) for run in found]


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


def test_words_that_spell_a_special_token_stay_words(tokenizer):
    turns = (
        {"role": "user", "content": "say <|im_end|> now"},
        {"role": "assistant", "content": "<|im_end|><|eos|>"},
    )
    example = encoder_of(tokenizer, CHAT_TEMPLATE).encode(conversation(turns))
    ids = example.ids.tolist()
    assert ids.count(tokenizer.find_special_id("<|im_end|>")) == 2  # the two turns' own ends
    assert tokenizer.find_special_id("<|eos|>") not in ids
    assert spans(tokenizer, example) == ["<|im_end|><|eos|><|im_end|>"]


def test_only_later_turns_are_learnt_where_that_is_asked_for(tokenizer):
    for source in (CHAT_TEMPLATE, MARKED):
        example = encoder_of(tokenizer, source).encode(conversation(), first=2)
        assert spans(tokenizer, example) == ["nothing\nmore<|im_end|>"]


def test_all_but_the_first_token_are_learnt_where_the_prompt_counts(tokenizer):
    example = encoder_of(tokenizer, CHAT_TEMPLATE).encode(conversation(), whole=True)
    assert example.loss_mask.tolist() == [False] + [True] * (len(example) - 1)


def test_plain_text_is_learnt_whole_and_ends(tokenizer):
    text = parse_conversation(Record("nothing more", "a.jsonl:1"))
    example = encoder_of(tokenizer, CHAT_TEMPLATE).encode(text)
    assert example.ids.tolist() == [*tokenizer.encode("nothing more"), tokenizer.eos_id]
    assert example.loss_mask.tolist() == [False] + [True] * (len(example) - 1)


def test_the_default_template_is_chatml(tokenizer):
    found = choose_template(build_tokenizer_config(tokenizer), default=CHAT_TEMPLATE)
    assert found.render(TURNS[:1], prompt=True) == (
        "<|im_start|>user\nwho are you?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert choose_template(None, default=CHAT_TEMPLATE).source == CHAT_TEMPLATE


def test_a_template_that_is_not_there_is_a_mistake_like_data_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match=r"none.jinja: no such template; check the name$"):
        choose_template({}, file=tmp_path / "none.jinja", default=CHAT_TEMPLATE)


def test_a_template_is_taken_from_a_list_by_the_name_default():
    held = [{"name": "rag", "template": "x"}, {"name": "default", "template": "y"}]
    assert choose_template({"chat_template": held}, default="z").source == "y"
    config = {"chat_template": "y", "bos_token": {"content": "<s>", "lstrip": False}}
    assert choose_template(config, default="z").names == {"bos_token": "<s>"}


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
    assert parse_conversation(Record(FORMATS[name], "f:1")).messages == expected


def test_an_alpaca_input_follows_the_instruction():
    found = parse_conversation(Record({"instruction": "q", "input": "x", "output": "a"}, "f:1"))
    assert found.messages[0]["content"] == "q\n\nx"


def test_conversations_come_from_jsonl_json_and_csv(tmp_path):
    lines = tmp_path / "a.jsonl"
    lines.write_text(json.dumps(FORMATS["alpaca"]) + "\n\n" + json.dumps("text") + "\n")
    listed = tmp_path / "b.json"
    listed.write_text(json.dumps(["one", "two"]))
    table = tmp_path / "c.csv"
    table.write_text('prompt,completion\n"q,\nr",a\n')
    found = list(read_conversations([lines, listed, table]))
    assert [c.text for c in found] == [None, "text", "one", "two", None]
    assert found[4].messages[0]["content"] == "q,\nr"
    places = [f"{lines}:1", f"{lines}:3", f"{listed}[0]", f"{listed}[1]", f"{table}:2"]
    assert [c.where for c in found] == places


BAD = [
    ({"messages": [U]}, "no message of the assistant, so there is nothing to train on"),
    ({"messages": []}, "field 'messages': an empty list of messages"),
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
     "both 'messages' and 'completion', so the answer to train on is given twice; keep one"),
    ({"prompt": "q", "completion": ""},
     "field 'completion': an empty completion; there is nothing to learn from it"),
    ({"instruction": "q", "answer": "a"}, "no field 'output', only 'instruction', 'answer'"),
    ({"question": "q"},
     "no field 'messages', only 'question'; give 'messages', 'prompt' and 'completion', "
     "'instruction' and 'output', or 'text'"),
    (" ", "an empty text; there is nothing to learn from it"),
    (7, "found 7 where an object or a string is needed"),
    ("\ud800",
     "half of a surrogate pair, \\ud800, which is not a character; write the text as UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "message"), BAD)
def test_what_is_no_conversation_is_refused_by_file_line_and_reason(value, message):
    with pytest.raises(DataError) as refused:
        parse_conversation(Record(value, "chat.jsonl:3"))
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
        "the chat template renders the text up to message 1 and the generation prompt "
        "differently when more messages follow, so the assistant's part cannot be found; mark it "
        "with {% generation %} in the template",
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
        ({"role": "user", "content": "\U000f0001"}, A),
        "the text has U+F0001, which means nothing outside one program; take it out",
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


def test_what_is_no_jinja_is_refused_by_line(tmp_path):
    file = tmp_path / "chat.jinja"
    file.write_text("a\n{% for m in messages %}")
    with pytest.raises(DataError) as refused:
        choose_template(None, file=file, default="")
    assert str(refused.value).startswith(f"{file}:2: not a Jinja template: Unexpected end of")


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

"""Answers of a promised form: JSON of a schema, and calls of tools, by OpenAI's own client."""

import json
from typing import Literal

import httpx
import openai
import pytest

from hermes.chat_templates.template import Template
from hermes.inference.grammar import compile_lark
from hermes.serving.call_grammar import (
    BARE,
    BLOCKS,
    LISTED,
    CallForm,
    find_call_form,
    render_call_grammar,
)
from hermes.serving.tool_calls import split_tool_calls
from tests.serving.conftest import Served
from tests.training.support import SPEC, Runs, corpus_in
from tests.waiting import PATIENCE

HEAD = (
    "{% if tools %}{{ '<|im_start|>system' }}{% for t in tools %} {{ t.function.name }}"
    "{% endfor %}{{ '<|im_end|>\n' }}{% endif %}"
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + (m.content or '') }}"
    "{% for c in m.tool_calls or [] %}CALL{% endfor %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
CALLS = {
    "blocks": "{{ '<tool_call>\n' }}{{ c.function | tojson }}{{ '\n</tool_call>' }}",
    "listed": "{{ '[TOOL_CALLS] [' }}{{ c.function | tojson }}{{ ']' }}",
    "bare": '{{ \'{"name": "\' + c.function.name + \'", "parameters": \' }}'
    "{{ c.function.arguments | tojson }}{{ '}' }}",
}
TEMPLATES = {name: HEAD.replace("CALL", call) for name, call in CALLS.items()}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"place": {"$ref": "#/$defs/place"}, "days": {"enum": [1, 2]}},
            "required": ["place", "days"],
            "additionalProperties": False,
            "$defs": {"place": {"type": "string", "maxLength": 5}},
        },
    },
}
CLOCK = {
    "type": "function",
    "function": {
        "name": "clock",
        "parameters": {"type": "object", "additionalProperties": False},
    },
}
SCHEMA = {
    "type": "object",
    "properties": {"answer": {"type": "integer", "minimum": 1, "maximum": 50}},
    "required": ["answer"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "answer", "schema": SCHEMA}}


@pytest.fixture(scope="module")
def long_model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("forms")
    spec = SPEC.replace("max_seq_len: 32", "max_seq_len: 512")
    return Runs(corpus_in(folder), folder)("model", max_steps=2, spec=spec).output


@pytest.fixture(scope="module")
def make_client(long_model, tmp_path_factory):
    """A client of a server of the model, by backend and template."""
    from hermes.api_serving import open_served_model

    made, folder = {}, tmp_path_factory.mktemp("templates")

    def make(backend="torch", template="blocks"):
        if (backend, template) not in made:
            path = folder / f"{template}.jinja"
            path.write_text(TEMPLATES[template], encoding="utf-8")
            served = Served(open_served_model(long_model, backend=backend, template=path))
            client = openai.OpenAI(
                base_url=f"{served.address}/v1", api_key="none", max_retries=0, timeout=PATIENCE
            )
            made[backend, template] = served, client
        return made[backend, template][1]

    yield make
    for served, client in made.values():
        client.close()
        served.stop()


def ask(client, **fields):
    asked = {"model": "model", "messages": [{"role": "user", "content": "the cat"}],
             "temperature": 1.5, "max_tokens": 400}  # fmt: skip
    return client.chat.completions.create(**{**asked, **fields})


def check_call(call):
    arguments = json.loads(call.function.arguments)
    if call.function.name == "clock":
        assert arguments == {}
    else:
        assert call.function.name == "weather"
        assert set(arguments) == {"place", "days"}
        assert len(arguments["place"]) <= 5
        assert arguments["days"] in (1, 2)


def test_json_of_a_schema_comes_from_a_random_model_on_both_backends(make_client):
    found = [
        ask(make_client(backend), response_format=FORMAT, n=8, seed=1)
        for backend in ("torch", "mlx")
    ]
    texts = [[choice.message.content for choice in one.choices] for one in found]
    for text, choice in zip(texts[0], found[0].choices, strict=True):
        assert choice.finish_reason == "stop"
        value = json.loads(text)
        assert list(value) == ["answer"]
        assert 1 <= value["answer"] <= 50
    assert texts[0] == texts[1]
    assert len(set(texts[0])) > 1


def test_a_stream_of_json_is_the_whole_answer(make_client):
    client = make_client()
    whole = ask(client, response_format=FORMAT, seed=2).choices[0].message.content
    parts = [*ask(client, response_format=FORMAT, seed=2, stream=True)]
    said = [part.choices[0].delta.content for part in parts if part.choices[0].delta.content]
    assert "".join(said) == whole
    assert len(said) > 2  # it came as it was made


def test_the_client_parses_an_answer_into_its_own_type(make_client):
    """`parse` is what pydantic's users call: it sends strict schemas and reads the answer."""
    from pydantic import BaseModel

    class Answer(BaseModel):
        kind: Literal["cat", "mat"]
        maybe: bool | None

    found = make_client().chat.completions.parse(
        model="model", messages=[{"role": "user", "content": "a"}], response_format=Answer,
        max_tokens=400, temperature=0,
    )  # fmt: skip
    assert isinstance(found.choices[0].message.parsed, Answer)


def test_a_json_object_is_one_wherever_it_ends(make_client):
    found = ask(make_client(), response_format={"type": "json_object"}, n=4, seed=4, max_tokens=200)
    whole = [one.message.content for one in found.choices if one.finish_reason == "stop"]
    assert all(isinstance(json.loads(text), dict) for text in whole)
    assert whole


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_call_is_forced_from_a_random_model(make_client, template):
    client = make_client(template=template)
    required = ask(client, tools=[WEATHER, CLOCK], tool_choice="required", n=6, seed=1,
                   parallel_tool_calls=False)  # fmt: skip
    for choice in required.choices:
        assert choice.finish_reason == "tool_calls"
        assert choice.message.content is None
        (call,) = choice.message.tool_calls
        check_call(call)
    names = {choice.message.tool_calls[0].function.name for choice in required.choices}
    assert names == {"weather", "clock"}
    named = ask(client, tools=[WEATHER, CLOCK], n=3, seed=5,
                tool_choice={"type": "function", "function": {"name": "clock"}})  # fmt: skip
    for choice in named.choices:
        assert [call.function.name for call in choice.message.tool_calls] == ["clock"]


def test_a_forced_call_is_streamed(make_client):
    client = make_client("mlx")
    asked = {"tools": [WEATHER], "tool_choice": "required", "seed": 3,
             "parallel_tool_calls": False}  # fmt: skip
    whole = ask(client, **asked).choices[0].message.tool_calls[0].function
    deltas = [part.choices[0] for part in ask(client, stream=True, **asked)]
    calls = [call for one in deltas for call in one.delta.tool_calls or ()]
    assert "".join(call.function.arguments for call in calls) == whole.arguments
    assert not any(one.delta.content for one in deltas)
    assert deltas[-1].finish_reason == "tool_calls"


def test_a_choice_of_allowed_tools_calls_no_other(make_client):
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "clock"}}]}
    found = ask(make_client(), tools=[WEATHER, CLOCK], n=4, seed=2, parallel_tool_calls=False,
                tool_choice={"type": "allowed_tools", "allowed_tools": allowed})  # fmt: skip
    names = [call.function.name for one in found.choices for call in one.message.tool_calls]
    assert names == ["clock"] * 4


def test_tools_and_a_schema_give_either(make_client):
    found = ask(make_client(), tools=[CLOCK], response_format=FORMAT, n=12, seed=1,
                parallel_tool_calls=False)  # fmt: skip
    kinds = set()
    for choice in found.choices:
        kinds.add(choice.finish_reason)
        if choice.message.tool_calls:
            check_call(choice.message.tool_calls[0])
        else:
            assert list(json.loads(choice.message.content)) == ["answer"]
    assert kinds == {"tool_calls", "stop"}


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"response_format": {"type": "xml"}}, "must have the type text, json_object or"),
        ({"response_format": {"type": "json_schema"}}, "needs a schema in its json_schema"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": 3}}}},
            "response_format: the JSON schema cannot be followed",
        ),
        ({"tool_choice": "required"}, "tool_choice needs tools"),
        ({"tools": [CLOCK], "tool_choice": "sometimes"}, "tool_choice must be 'auto'"),
        (
            {"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "x"}}},
            "tool_choice must name tools of the request, which are clock",
        ),
        ({"tools": [{"type": "function"}]}, "tools must be functions with names"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": 1}}}],
             "tool_choice": "required"},
            "tool 'f': the JSON schema cannot be followed",
        ),
    ],
)  # fmt: skip
def test_a_form_that_cannot_be_kept_is_refused_by_name(make_client, fields, why):
    client = make_client()
    body = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 5, **fields}
    answer = httpx.post(f"{client.base_url}chat/completions", json=body, timeout=PATIENCE)
    assert answer.status_code == 400
    assert why in answer.json()["error"]["message"]


def test_the_form_of_calls_is_the_templates(base):
    tokenizer = base.tokenizer
    found = {
        name: find_call_form(Template(text, names={}), tokenizer)
        for name, text in TEMPLATES.items()
    }
    assert found == {"blocks": BLOCKS, "listed": LISTED, "bare": CallForm(key="parameters")}
    plain = Template("{% for m in messages %}{{ m.content }}{% endfor %}", names={})
    assert find_call_form(plain, tokenizer) == BARE


def follow(tokenizer, grammar, text):
    """How much of a text the grammar allows, and whether that may be the end."""
    matcher = compile_lark(tokenizer, grammar).start()
    tokens = tokenizer.encode(text)
    count = matcher._matcher.try_consume_tokens(tokens)
    return tokenizer.decode(tokens[:count]), matcher._matcher.is_accepting()


@pytest.mark.parametrize("form", [BLOCKS, LISTED, BARE], ids=["blocks", "listed", "bare"])
def test_calls_of_strict_tools_are_held_to_their_schema_where_text_is_free(base, form):
    """tool_choice auto: any text may come, and what a mark or a brace begins is a right call."""
    tokenizer = base.tokenizer
    grammar = render_call_grammar(
        [WEATHER, CLOCK], form, is_forced=False, has_one_call=False, schema=None
    )
    right = f'{form.mark}{form.begin}{{"name": "clock", "arguments": {{}}}}{form.end}'
    wrong = f'{form.mark}{form.begin}{{"name": "other", "arguments": {{}}}}{form.end}'
    for text in ("the cat <tool sat", "", right):
        assert follow(tokenizer, grammar, text) == (text, True)
    assert split_tool_calls(right, [CLOCK])[1]
    assert follow(tokenizer, grammar, wrong)[0].endswith('{"name": "')
    if form.mark:
        assert follow(tokenizer, grammar, "I see. " + right) == ("I see. " + right, True)
        assert not follow(tokenizer, grammar, "I see. " + wrong)[1]


def test_several_calls_come_where_they_may(base):
    for form in (BLOCKS, LISTED):
        one = '{"name": "clock", "arguments": {}}'
        text = f"{form.mark}{form.begin}{one}{form.between}{one}{form.end}"
        for several in (True, False):
            grammar = render_call_grammar(
                [CLOCK], form, is_forced=True, has_one_call=not several, schema=None
            )
            assert (follow(base.tokenizer, grammar, text) == (text, True)) is several
        assert len(split_tool_calls(text, [CLOCK])[1]) == 2

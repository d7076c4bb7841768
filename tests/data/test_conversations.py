"""Conversations: every form that is read, and what is refused."""

import json

import pytest

from hermes.data.bad_records import BadRecords
from hermes.data.conversations import parse_conversation, read_conversations
from hermes.data.records import Record
from hermes.errors import DataError
from tests.chat_templates.support import A, U

FORMATS = {
    "messages": {"messages": [{"role": "user", "content": "q"},
                              {"role": "assistant", "content": "a"}]},
    "prompt and completion": {"prompt": "q", "completion": "a"},
    "prompt and completion as messages": {
        "prompt": [{"role": "user", "content": "q"}],
        "completion": [{"role": "assistant", "content": "a"}],
    },
    "alpaca": {"instruction": "q", "input": "", "output": "a"},
    "prompt and response": {"prompt": "q", "response": "a"},
    "instruction and response": {"instruction": "q", "response": "a"},
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
     "no field 'completion', only 'prompt'"),
    ({"messages": [U, A], "prompt": "q", "completion": "b"},
     "both 'messages' and 'completion', so the answer to train on is given twice; keep one"),
    ({"prompt": "q", "completion": ""},
     "field 'completion': an empty completion; there is nothing to learn from it"),
    ({"instruction": "q", "answer": "a"}, "no field 'output', only 'instruction', 'answer'"),
    ({"question": "q"},
     "no field 'messages', only 'question'; give 'messages', 'conversations', 'prompt' and "
     "'completion', 'instruction' and 'output', or 'text'"),
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


def parse(value):
    return parse_conversation(Record(value, "chat.jsonl:3"))


def shape(found):
    return [(m["role"], m["content"]) for m in found.messages]


def test_sharegpts_turns_are_messages():
    call = {"name": "f", "arguments": {"city": "Oslo"}}
    found = parse(
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "function_call", "value": json.dumps(call)},
                {"from": "observation", "value": "5"},
                {"from": "gpt", "value": "a", "weight": None},
            ],
            "system": "be brief",
            "tools": json.dumps([{"name": "f"}]),
            "id": "x",
        }
    )
    assert shape(found) == [
        ("system", "be brief"),
        ("user", "q"),
        ("assistant", None),
        ("tool", "5"),
        ("assistant", "a"),
    ]
    assert found.messages[2]["tool_calls"] == [{"type": "function", "function": call}]
    assert found.tools == ({"name": "f"},)
    assert found.unread == ("id",)
    assert shape(parse({"conversations": [U, A]})) == [("user", "q"), ("assistant", "a")]


def test_contents_may_be_lists_of_parts_with_text():
    parts = [{"type": "text", "text": "a"}, "b", {"type": "input_text", "text": "c", "image": None}]
    assert shape(parse({"messages": [{"role": "user", "content": parts}, A]}))[0] == ("user", "abc")


def test_turns_of_weight_zero_are_context_only():
    """OpenAI's and Mistral's weight, Axolotl's train."""
    turns = [
        U,
        {**A, "weight": 0},
        U,
        {**A, "train": False},
        {**U, "weight": 0},
        {**A, "weight": 1},
    ]
    found = parse({"messages": turns})
    assert found.weights == {1: 0, 3: 0}
    assert found.untrained == frozenset()
    assert all(set(message) == {"role", "content"} for message in found.messages)


def test_system_and_history_become_turns():
    history = [["q1", "a1"], ["q2", "a2"]]
    before = [("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2")]
    now = [("user", "q"), ("assistant", "a")]
    alpaca = {"instruction": "q", "output": "a", "system": "be brief", "history": history}
    assert shape(parse(alpaca)) == [("system", "be brief"), *before, *now]
    listed = {"messages": [{"role": "system", "content": "s"}, U, A], "history": history}
    assert shape(parse(listed)) == [("system", "s"), *before, *now]
    assert shape(parse({"messages": [U, A], "system": "", "history": []})) == now
    same = {"messages": [{"role": "system", "content": "s"}, U, A], "system": "s"}
    assert shape(parse(same)) == [("system", "s"), *now]


def test_answers_in_the_prompt_are_context():
    """As TRL and dpo have it: the completion alone is learnt."""
    found = parse({"prompt": [U, A, U], "completion": [A], "system": "be brief"})
    assert found.untrained == {0, 1, 2, 3}
    assert len(found.messages) == 5


def test_null_is_absence():
    for field in ("messages", "text", "system", "history", "tools", "weight"):
        found = parse({field: None, "prompt": "q", "completion": "a"})
        assert shape(found) == [("user", "q"), ("assistant", "a")]
        assert found.unread == ()
    found = parse({"messages": [{**U, "tool_calls": None, "name": None}, A], "completion": None})
    assert found.messages[0] == U


def test_fields_that_nothing_reads_are_named():
    assert parse({"messages": [U, A], "prompt": "q", "id": 1}).unread == ("prompt", "id")
    assert parse({"text": "a", "source": "web"}).unread == ("source",)


def test_a_function_is_a_tool_as_chat_completions_had_it():
    call = {"name": "f", "arguments": "{}"}
    turns = [U, {"role": "assistant", "content": None, "function_call": call},
             {"role": "function", "name": "f", "content": "5"}, A]  # fmt: skip
    found = parse({"messages": turns})
    assert shape(found)[1:3] == [("assistant", None), ("tool", "5")]
    assert found.messages[1]["tool_calls"] == [{"type": "function", "function": call}]
    assert found.messages[2]["name"] == "f"
    said = [{"from": "human", "value": "q"}, {"from": "function", "value": "5"},
            {"from": "gpt", "value": "a"}]  # fmt: skip
    assert shape(parse({"conversations": said}))[1] == ("tool", "5")


def test_bad_records_are_left_out_and_counted_if_asked(tmp_path):
    """By default the first stops, with its place and the option that leaves such out."""
    records = [FORMATS["alpaca"], {**FORMATS["alpaca"], "output": " "}, FORMATS["messages"]]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(one) + "\n" for one in records) + "{torn\n")
    with pytest.raises(DataError) as refused:
        list(read_conversations(file))
    assert str(refused.value) == (
        f"{file}:2: field 'output': an empty completion; there is nothing to learn from it; "
        "--skip-bad-records leaves such records out"
    )
    bad = BadRecords(0.5)
    assert len(list(read_conversations(file, bad=bad))) == 2
    said = bad.describe()
    assert said[0] == "left out 2 bad records:"
    assert [line.split(": ")[0] for line in said[1:]] == [f"{file}:2", f"{file}:4:2"]
    with pytest.raises(DataError, match=r"2 bad records among 4, more than 0\.3 of them"):
        list(read_conversations(file, bad=BadRecords(0.3)))


WRONG = [
    ({"prompt": "q", "completion": "a", "response": "b"},
     "both 'completion' and 'response', so the answer to train on is given twice; keep one"),
    ({"messages": [U, {**A, "weight": -1}]},
     "field 'messages'[1]: field 'weight' is -1; it must be a number from 0 on"),
    ({"messages": [U, A], "weight": "heavy"}, "field 'weight' is 'heavy'; it must be a number"),
    ({"messages": [{**U, "train": True}, A]}, "only the assistant's are trained on"),
    ({"messages": [U, {**A, "weight": 0}]}, "no message of the assistant is trained on"),
    ({"messages": [{"role": "system", "content": "s"}, U, A], "system": "t"},
     "both a field 'system' and a message of role 'system'; keep one"),
    ({"conversations": [{"from": "humn", "value": "q"}]},
     "field 'conversations'[0]: 'from' is 'humn'; did you mean 'human'?"),
    ({"conversations": [{"from": "function_call", "value": "f()"}]},
     "field 'value': a call of a function must be JSON with 'name' and 'arguments', found 'f()'"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, A]},
     "field 'messages'[0]: field 'content'[0]: a part of type 'image_url'; only parts of type "
     "'text' can be read"),
    ({"messages": [U, A], "tools": "f"}, "field 'tools': a string that is not JSON"),
    ({"messages": [U, A], "tools": {"name": "f"}},
     "field 'tools': found an object where a list is needed"),
    ({"instruction": "q", "output": "a", "history": ["q"]},
     "field 'history'[0]: found a string where a list of a question and its answer is needed"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "message"), WRONG)
def test_a_field_that_cannot_be_obeyed_is_refused(value, message):
    with pytest.raises(DataError) as refused:
        parse(value)
    assert message in str(refused.value)
    assert str(refused.value).startswith("chat.jsonl:3: ")

"""Conversations: every form that is read, and what is refused."""

import json

import pytest

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

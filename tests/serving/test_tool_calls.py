"""Calls of tools in what models write."""

import json

import pytest

from hermes.serving.tool_calls import may_begin_call, split_tool_calls

TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
CALL = '{"name": "weather", "arguments": {"place": "Z\\u00fcrich"}}'


def read(text):
    said, calls = split_tool_calls(text, TOOLS)
    return said, [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in calls]


@pytest.mark.parametrize(
    ("text", "said", "count"),
    [
        (f"<tool_call>\n{CALL}\n</tool_call>", "", 1),
        (
            f"Let me see.\n<tool_call>{CALL}</tool_call><tool_call>{CALL}</tool_call>",
            "Let me see.",
            2,
        ),
        (f"<tool_call>{CALL}", "", 1),
        (f"[TOOL_CALLS] [{CALL}]", "", 1),
        (CALL.replace("arguments", "parameters"), "", 1),
        (f"<tool_call>{CALL}</tool_call> and {{}}", "and {}", 1),
    ],
)
def test_the_forms_of_templates_are_read(text, said, count):
    assert read(text) == (said, [("weather", {"place": "Zürich"})] * count)


def test_arguments_may_spell_the_marks():
    for spelt in ("</tool_call>", "<tool_call>", "[TOOL_CALLS] []"):
        call = json.dumps({"name": "weather", "arguments": {"place": spelt}})
        for text in (call, f"<tool_call>{call}</tool_call>", f"[TOOL_CALLS] [{call}]"):
            assert read(text) == ("", [("weather", {"place": spelt})]), text


@pytest.mark.parametrize(
    "text",
    [
        "It rains.",
        "<tool_call>not json</tool_call>",
        '<tool_call>{"name": "other"}</tool_call>',
        '{"name": "other", "parameters": {}}',
        '{"a": 1}',
        "[TOOL_CALLS] []",
        '{"name": ["weather"]}',
        '<tool_call>{"name": "weather"} and more',
        "{" * 5000,
    ],
)
def test_what_calls_no_tool_stays_text(text):
    assert read(text) == (text, [])


def test_a_stream_holds_back_what_may_become_a_call():
    whole = f"I see <tool_call>{CALL}</tool_call>"
    start = whole.index("<")
    for end in range(1, len(whole) + 1):
        assert may_begin_call(whole[:end]) is (end > start)
    assert not may_begin_call("a < b")
    assert may_begin_call('{"na')

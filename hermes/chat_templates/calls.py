"""The arguments of tool calls, as objects or as JSON in a string: as the template writes them.

OpenAI's interface has them as a string; most templates write an object as JSON and would write a
string as JSON in JSON; some write what they are given.
"""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from hermes.chat_templates.messages import Message
from hermes.chat_templates.template import Template
from hermes.errors import DataError
from hermes.storage.plain_json import load_json

__all__ = ["KEY", "convert_calls", "write_call"]

KEY = "hermes_key"  # an argument of calls that are written to see how


def convert_calls(messages: Sequence[Message], template: Template) -> list[Message]:
    """Give the arguments of all calls the form that the template writes."""
    if not any(message.get("tool_calls") for message in messages):
        return list(messages)
    wants_text = _wants_text(template)
    return [
        {**message, "tool_calls": [_convert_call(one, wants_text) for one in message["tool_calls"]]}
        if message.get("tool_calls")
        else message
        for message in messages
    ]


def _convert_call(call: Any, as_text: bool) -> Any:
    if not isinstance(call, dict):
        return call
    if isinstance(inner := call.get("function"), dict):
        return {**call, "function": _convert_call(inner, as_text)}
    arguments = call.get("arguments")
    if as_text and isinstance(arguments, dict):
        return {**call, "arguments": json.dumps(arguments, ensure_ascii=False)}
    if not as_text and isinstance(arguments, str):
        try:
            found = load_json(arguments)
        except ValueError:
            return call
        return {**call, "arguments": found} if isinstance(found, dict) else call
    return call


@lru_cache(maxsize=8)
def _wants_text(template: Template) -> bool:
    """Whether the template writes arguments right only if they are text: tried on a call."""
    written = write_call(template, {KEY: "v"})
    if written is not None and KEY in written and f"'{KEY}'" not in written:
        return False
    written = write_call(template, json.dumps({KEY: "v"}))
    return written is not None and f'"{KEY}"' in written


def write_call(template: Template, arguments: Any) -> str | None:
    """Write a conversation with a call; None where the template refuses it."""
    function = {"name": "f", "arguments": arguments}
    call = {"id": "a12345678", "type": "function", "function": function}
    ask = {"role": "user", "content": "a"}
    answer = {"role": "tool", "content": "b", "name": "f", "tool_call_id": call["id"]}
    for content in ("", None):
        calling = {"role": "assistant", "content": content, "tool_calls": [call]}
        for messages in ((ask, calling, answer), (ask, calling)):
            try:
                return template.render(messages, prompt=False)
            except DataError:
                continue
    return None

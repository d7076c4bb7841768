"""Finds calls of tools in what a model writes, in the forms that chat templates teach."""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["may_begin_call", "split_tool_calls"]

# Qwen, Hermes and others: a block for each call.
BLOCK = re.compile(r"<tool_call>\s*(.*?)\s*(?:</tool_call>|\Z)", re.DOTALL)
# Mistral: one list of calls.
LISTED = re.compile(r"\[TOOL_CALLS\]\s*(\[.*\])\s*\Z", re.DOTALL)
BEGINNINGS = ("<tool_call>", "[TOOL_CALLS]", "{")


def may_begin_call(text: str) -> bool:
    """Whether what is written so far may be, or end in, the beginning of a call."""
    body = text.lstrip()
    if body.startswith("{") or any(mark in text for mark in BEGINNINGS[:2]):
        return True
    return any(
        text.endswith(mark[:size]) for mark in BEGINNINGS[:2] for size in range(1, len(mark))
    )


def split_tool_calls(text: str, tools: Sequence[Any]) -> tuple[str, list[dict[str, Any]]]:
    """Split a text into what is said and the calls of tools in it, as OpenAI's API has them.

    What names none of the tools, or is no JSON, stays text.
    """
    known = {_find_name(tool) for tool in tools}
    if found := BLOCK.findall(text):
        calls = [_read_call(part, known) for part in found]
        if all(calls):
            return BLOCK.sub("", text).strip(), [call for call in calls if call]
        return text, []
    if listed := LISTED.search(text):
        values = _load(listed[1])
        calls = [_make_call(value, known) for value in values or ()]
        if calls and all(calls):
            return text[: listed.start()].strip(), [call for call in calls if call]
        return text, []
    # Llama 3.1: the whole answer is one call.
    call = _read_call(text.strip(), known) if text.lstrip().startswith("{") else None
    return ("", [call]) if call else (text, [])


def _find_name(tool: Any) -> str | None:
    function = tool.get("function", tool) if isinstance(tool, Mapping) else {}
    return function.get("name") if isinstance(function, Mapping) else None


def _load(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _read_call(text: str, known: set[str | None]) -> dict[str, Any] | None:
    return _make_call(_load(text), known)


def _make_call(value: Any, known: set[str | None]) -> dict[str, Any] | None:
    if not isinstance(value, Mapping) or value.get("name") not in known:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": value["name"], "arguments": arguments},
    }

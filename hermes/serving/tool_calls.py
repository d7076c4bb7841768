"""Finds calls of tools in what a model writes, in the forms that chat templates teach."""

import json
import re
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from hermes.storage.plain_json import decode_json, load_json

__all__ = ["find_function", "may_begin_call", "split_tool_calls"]

# Qwen, Hermes and others: a block for each call.
BLOCK = re.compile(r"<tool_call>\s*")
BLOCK_END = re.compile(r"\s*(?:</tool_call>|\Z)")
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
    known = {find_function(tool).get("name") for tool in tools}
    # Llama 3.1: the whole answer is one call. First, since its strings may spell other marks.
    if text.lstrip().startswith("{") and (call := _read_call(text.strip(), known)):
        return "", [call]
    block, listed = BLOCK.search(text), LISTED.search(text)
    if block and not (listed and listed.start() < block.start()):
        return _split_blocks(text, known)
    if listed:
        values = _load(listed[1])
        calls = [_make_call(value, known) for value in values or ()]
        if calls and all(calls):
            return text[: listed.start()].strip(), [call for call in calls if call]
        return text, []
    return text, []


def find_function(tool: Any) -> Mapping[str, Any]:
    """What a tool says of its function: name, description, parameters; {} where it is none."""
    function = tool.get("function", tool) if isinstance(tool, Mapping) else {}
    return function if isinstance(function, Mapping) else {}


def _split_blocks(text: str, known: set[Any]) -> tuple[str, list[dict[str, Any]]]:
    """What is said around blocks, and their calls; no calls where one of them is none."""
    said, calls, at = [], list[dict[str, Any]](), 0
    while found := BLOCK.search(text, at):
        said.append(text[at : found.start()])
        try:  # as far as the object goes, whose strings may spell the mark's end
            value, end = decode_json(text, found.end())
        except ValueError:
            return text, []
        call, closed = _make_call(value, known), BLOCK_END.match(text, end)
        if call is None or closed is None:
            return text, []
        calls.append(call)
        at = closed.end()
    return "".join([*said, text[at:]]).strip(), calls


def _load(text: str) -> Any:
    try:
        return load_json(text)
    except ValueError:
        return None


def _read_call(text: str, known: set[Any]) -> dict[str, Any] | None:
    return _make_call(_load(text), known)


def _make_call(value: Any, known: set[Any]) -> dict[str, Any] | None:
    name = value.get("name") if isinstance(value, Mapping) else None
    if not isinstance(name, str) or name not in known:
        return None
    arguments = value.get("arguments", value.get("parameters", {}))
    if not isinstance(arguments, str):
        arguments = json.dumps(arguments, ensure_ascii=False)
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": name, "arguments": arguments},
    }

"""Reads conversations from files of instructions and dialogues.

A record is a conversation if it has `messages`, or `prompt` and `completion`, or `instruction` and
`output` (and perhaps `input`, as Alpaca's have); it is plain text if it is a string or has `text`.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from hermes.chat_templates.messages import (
    Conversation,
    Message,
    as_messages,
    make_message,
    read_answer,
    read_content,
    read_messages,
    read_text,
    require_field,
)
from hermes.data.files import Paths
from hermes.data.records import Record, read_records
from hermes.errors import DataError
from hermes.formatting import describe_missing, name_type

__all__ = ["parse_conversation", "read_conversations"]


def read_conversations(paths: Paths, *, file_format: str | None = None) -> Iterator[Conversation]:
    """Yield the conversations of files; formats as in `records`. Raises DataError, StorageError."""
    return map(parse_conversation, read_records(paths, file_format=file_format))


def parse_conversation(record: Record) -> Conversation:
    """Parse a record as a conversation with at least one answer. Raises DataError."""
    value, where = record.value, record.where
    if isinstance(value, str):
        return Conversation((), where, text=read_text(value, where))
    if not isinstance(value, dict):
        raise DataError(f"{where}: found {name_type(value)} where an object or a string is needed")
    tools = value.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise DataError(f"{where}: field 'tools': found {name_type(tools)} where a list is needed")
    described_tools = None if tools is None else tuple(tools)
    if "messages" in value:
        if value.get("completion") is not None:
            raise DataError(
                f"{where}: both 'messages' and 'completion', so the answer to train on is given "
                "twice; keep one"
            )
        messages = read_messages(value["messages"], f"{where}: field 'messages'")
        if not any(message["role"] == "assistant" for message in messages):
            raise DataError(
                f"{where}: no message of the assistant, so there is nothing to train on"
            )
        return Conversation(messages, where, tools=described_tools)
    if "prompt" in value:
        completion = require_field(value, "completion", where)
        prompt = as_messages(value["prompt"], "user", f"{where}: field 'prompt'")
        answer = as_messages(completion, "assistant", f"{where}: field 'completion'")
        return Conversation((*prompt, *answer), where, tools=described_tools)
    if "instruction" in value:
        return Conversation(parse_alpaca(value, where), where)
    if "text" in value:
        return Conversation((), where, text=read_text(value["text"], f"{where}: field 'text'"))
    known = "give 'messages', 'prompt' and 'completion', 'instruction' and 'output', or 'text'"
    raise DataError(f"{where}: {describe_missing('messages', value, known)}")


def parse_alpaca(value: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    """Parse Stanford Alpaca's instruction, input and output; the input follows the instruction."""
    output = read_answer(require_field(value, "output", where), f"{where}: field 'output'")
    user = read_content(value["instruction"], f"{where}: field 'instruction'")
    if value.get("input"):
        user += "\n\n" + read_content(value["input"], f"{where}: field 'input'")
    return (make_message("user", user), make_message("assistant", output))

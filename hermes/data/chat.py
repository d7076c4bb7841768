"""Conversations: what files of instructions and dialogues hold, in one form.

A record is a conversation if it has `messages`, or `prompt` and `completion`, or `instruction` and
`output` (and perhaps `input`, as Alpaca's have); it is plain text if it is a string or has `text`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hermes.data.files import Paths
from hermes.data.records import Record, kind, missing, records
from hermes.errors import DataError, nearest

__all__ = ["ROLES", "Conversation", "Message", "as_messages", "conversation_of", "conversations"]

ROLES = ("system", "developer", "user", "assistant", "tool")
"""The roles that templates of the Hugging Face kind know; each template may know fewer."""

Message = Mapping[str, Any]
"""One turn: `role` and `content`, and whatever else the template reads (tool calls, reasoning)."""


@dataclass(frozen=True)
class Conversation:
    """Messages in order, or plain text; where: the file and line it stands at, for errors.

    tools: what the template is told of tools.
    """

    messages: tuple[Message, ...]
    where: str
    text: str | None = None
    tools: tuple[Any, ...] | None = None


def conversations(paths: Paths, *, file_format: str | None = None) -> Iterator[Conversation]:
    """Yield the conversations of files; formats as in `records`. Raises DataError, StorageError."""
    return map(conversation_of, records(paths, file_format=file_format))


def conversation_of(record: Record) -> Conversation:
    """A record as a conversation that has something to learn. Raises DataError."""
    value, where = record.value, record.where
    if isinstance(value, str):
        return Conversation((), where, text=_text(value, where))
    if not isinstance(value, dict):
        raise DataError(f"{where}: found {kind(value)} where an object or a string is needed")
    tools = value.get("tools")
    if tools is not None and not isinstance(tools, list):
        raise DataError(f"{where}: field 'tools': found {kind(tools)} where a list is needed")
    held = None if tools is None else tuple(tools)
    if "messages" in value:
        if value.get("completion") is not None:
            raise DataError(
                f"{where}: both 'messages' and 'completion', so what is to be learnt is said "
                "twice; keep one"
            )
        messages = _messages(value["messages"], f"{where}: field 'messages'")
        if not any(message["role"] == "assistant" for message in messages):
            raise DataError(f"{where}: no message of the assistant, so there is nothing to learn")
        return Conversation(messages, where, tools=held)
    if "prompt" in value:
        completion = _field(value, "completion", where)
        prompt = as_messages(value["prompt"], "user", f"{where}: field 'prompt'")
        answer = as_messages(completion, "assistant", f"{where}: field 'completion'")
        return Conversation((*prompt, *answer), where, tools=held)
    if "instruction" in value:
        return Conversation(_alpaca(value, where), where)
    if "text" in value:
        return Conversation((), where, text=_text(value["text"], f"{where}: field 'text'"))
    known = "give 'messages', 'prompt' and 'completion', 'instruction' and 'output', or 'text'"
    raise DataError(f"{where}: {missing('messages', value, known)}")


def _alpaca(value: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    """Stanford Alpaca's three fields: the input, if any, follows the instruction."""
    output = _answer(_field(value, "output", where), f"{where}: field 'output'")
    user = _content(value["instruction"], f"{where}: field 'instruction'")
    if value.get("input"):
        user += "\n\n" + _content(value["input"], f"{where}: field 'input'")
    return (_message("user", user), _message("assistant", output))


def as_messages(value: Any, role: str, where: str) -> tuple[Message, ...]:
    """A string as one message of `role`, or a list of messages. Raises DataError."""
    if isinstance(value, str):
        read = _answer if role == "assistant" else _content
        return (_message(role, read(value, where)),)
    if not isinstance(value, list):
        raise DataError(
            f"{where}: found {kind(value)} where a string or a list of messages is needed"
        )
    return _messages(value, where)


def _messages(value: Any, where: str) -> tuple[Message, ...]:
    """A list of messages, each checked. Raises DataError."""
    if not isinstance(value, list):
        raise DataError(f"{where}: found {kind(value)} where a list of messages is needed")
    if not value:
        raise DataError(f"{where}: an empty list, there is no message in it")
    return tuple(_checked(item, f"{where}[{i}]") for i, item in enumerate(value))


def _checked(item: Any, where: str) -> Message:
    if not isinstance(item, dict):
        raise DataError(f"{where}: found {kind(item)} where an object is needed")
    role = _field(item, "role", where)
    if role not in ROLES:
        hint = nearest(role, ROLES) if isinstance(role, str) else ""
        raise DataError(
            f"{where}: role {role!r} is unknown{hint or '; known are ' + ', '.join(ROLES)}"
        )
    calls = bool(item.get("tool_calls"))
    content = item.get("content") if calls else _field(item, "content", where)
    if calls and content is None:
        return dict(item)
    read = _answer if role == "assistant" and not calls else _content
    read(content, f"{where}: field 'content'")
    return dict(item)


def _field(value: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in value:
        raise DataError(f"{where}: {missing(name, value)}")
    return value[name]


def _message(role: str, content: str) -> Message:
    return {"role": role, "content": content}


def _text(value: Any, where: str) -> str:
    if isinstance(value, str) and not value.strip():
        raise DataError(f"{where}: an empty text; there is nothing to learn from it")
    return _content(value, where)


def _content(value: Any, where: str) -> str:
    """A string of whole characters. Raises DataError."""
    if not isinstance(value, str):
        raise DataError(f"{where}: found {kind(value)} where a string is needed")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: half of a surrogate pair, \\u{ord(value[error.start]):04x}, which is "
                "no character; write the text as UTF-8"
            ) from None
    return value


def _answer(value: Any, where: str) -> str:
    """A string that has something to learn from. Raises DataError."""
    if isinstance(value, str) and not value.strip():
        raise DataError(f"{where}: an empty completion; there is nothing to learn from it")
    return _content(value, where)

"""Conversations and messages, and the checks of what files give for them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hermes.errors import DataError, suggest_nearest
from hermes.formatting import describe_missing, name_type

__all__ = [
    "ROLES",
    "Conversation",
    "Message",
    "as_messages",
    "check_message",
    "make_message",
    "read_answer",
    "read_content",
    "read_messages",
    "read_text",
    "require_field",
]

ROLES = ("system", "developer", "user", "assistant", "tool")
"""The roles of Hugging Face chat templates; a template may know fewer."""

Message = Mapping[str, Any]
"""One turn: `role`, `content`, and what else the template reads (tool calls, reasoning)."""


@dataclass(frozen=True)
class Conversation:
    """Messages in order, or plain text.

    where: its file and line, for error messages. tools: descriptions of tools for the template.
    """

    messages: tuple[Message, ...]
    where: str
    text: str | None = None
    tools: tuple[Any, ...] | None = None


def as_messages(value: Any, role: str, where: str) -> tuple[Message, ...]:
    """Take a string as one message of `role`, or check a list of messages. Raises DataError."""
    if isinstance(value, str):
        read = read_answer if role == "assistant" else read_content
        return (make_message(role, read(value, where)),)
    if not isinstance(value, list):
        raise DataError(
            f"{where}: found {name_type(value)} where a string or a list of messages is needed"
        )
    return read_messages(value, where)


def read_messages(value: Any, where: str) -> tuple[Message, ...]:
    """Check a list of messages. Raises DataError."""
    if not isinstance(value, list):
        raise DataError(f"{where}: found {name_type(value)} where a list of messages is needed")
    if not value:
        raise DataError(f"{where}: an empty list of messages")
    return tuple(check_message(item, f"{where}[{i}]") for i, item in enumerate(value))


def check_message(item: Any, where: str) -> Message:
    """Check the role and content of one message. Raises DataError."""
    if not isinstance(item, dict):
        raise DataError(f"{where}: found {name_type(item)} where an object is needed")
    role = require_field(item, "role", where)
    if role not in ROLES:
        hint = suggest_nearest(role, ROLES) if isinstance(role, str) else ""
        raise DataError(
            f"{where}: role {role!r} is unknown{hint or '; known are ' + ', '.join(ROLES)}"
        )
    calls = bool(item.get("tool_calls"))
    content = item.get("content") if calls else require_field(item, "content", where)
    if calls and content is None:
        return dict(item)
    read = read_answer if role == "assistant" and not calls else read_content
    read(content, f"{where}: field 'content'")
    return dict(item)


def require_field(value: Mapping[str, Any], name: str, where: str) -> Any:
    """Get a field. Raises DataError where it is missing."""
    if name not in value:
        raise DataError(f"{where}: {describe_missing(name, value)}")
    return value[name]


def make_message(role: str, content: str) -> Message:
    """Make a message of a role and its content."""
    return {"role": role, "content": content}


def read_text(value: Any, where: str) -> str:
    """Check that a value is a string with more than white space. Raises DataError."""
    if isinstance(value, str) and not value.strip():
        raise DataError(f"{where}: an empty text; there is nothing to learn from it")
    return read_content(value, where)


def read_content(value: Any, where: str) -> str:
    """Check that a value is a string without lone surrogates. Raises DataError."""
    if not isinstance(value, str):
        raise DataError(f"{where}: found {name_type(value)} where a string is needed")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise DataError(
                f"{where}: half of a surrogate pair, \\u{ord(value[error.start]):04x}, which is "
                "not a character; write the text as UTF-8"
            ) from None
    return value


def read_answer(value: Any, where: str) -> str:
    """Check that an answer has more than white space. Raises DataError."""
    if isinstance(value, str) and not value.strip():
        raise DataError(f"{where}: an empty completion; there is nothing to learn from it")
    return read_content(value, where)

"""Conversations and messages, and the checks of what files give for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hermes.errors import DataError, suggest_nearest
from hermes.formatting import describe_missing, describe_surrogate, name_type
from hermes.storage.plain_json import load_json

__all__ = [
    "ROLES",
    "Conversation",
    "Message",
    "as_messages",
    "check_message",
    "drop_nulls",
    "make_message",
    "read_answer",
    "read_content",
    "read_list",
    "read_messages",
    "read_text",
    "require_field",
]

# Types of a part of a content that is text, as Chat Completions, Responses and datasets call them.
TEXT_PARTS = ("text", "input_text", "output_text")
ROLES = ("system", "developer", "user", "assistant", "tool")
"""The roles of Hugging Face chat templates; a template may know fewer."""
# What a role was called before, in Chat Completions of 2023.
FORMER_ROLES = {"function": "tool"}

Message = Mapping[str, Any]
"""One turn: `role`, `content`, and what else the template reads (tool calls, reasoning)."""


@dataclass(frozen=True)
class Conversation:
    """Messages in order, or plain text.

    where: its file and line, for error messages. tools: descriptions of tools for the template.
    untrained: numbers of messages of the assistant that are context only. weight: of the record in
    the loss; weights: of messages of the assistant, by number, where not 1. unread: fields of the
    record that nothing reads. counted: the number of messages, from the first on, whose fields were
    looked at before.
    """

    messages: tuple[Message, ...]
    where: str
    text: str | None = None
    tools: tuple[Any, ...] | None = None
    untrained: frozenset[int] = frozenset()
    weight: float = 1.0
    weights: Mapping[int, float] = field(default_factory=dict)
    unread: tuple[str, ...] = ()
    counted: int = 0


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


def read_messages(value: Any, where: str, *, to_learn: bool = True) -> tuple[Message, ...]:
    """Check a list of messages. to_learn: refuse empty answers. Raises DataError."""
    if not isinstance(value, list):
        raise DataError(f"{where}: found {name_type(value)} where a list of messages is needed")
    if not value:
        raise DataError(f"{where}: an empty list of messages")
    return tuple(
        check_message(item, f"{where}[{i}]", to_learn=to_learn) for i, item in enumerate(value)
    )


def check_message(item: Any, where: str, *, to_learn: bool = True) -> Message:
    """Check the role and content of one message; null is absence. Raises DataError."""
    if not isinstance(item, dict):
        raise DataError(f"{where}: found {name_type(item)} where an object is needed")
    message = drop_nulls(item, but=("content",))
    return _check_fields(message, where, to_learn)


def _check_fields(item: dict[str, Any], where: str, to_learn: bool) -> Message:
    role = require_field(item, "role", where)
    if isinstance(role, str) and role in FORMER_ROLES:
        role = item["role"] = FORMER_ROLES[role]
    if role == "assistant" and isinstance(item.get("function_call"), dict):
        call = {"type": "function", "function": item.pop("function_call")}
        item["tool_calls"] = item.get("tool_calls") or [call]
    if role not in ROLES:
        hint = suggest_nearest(role, ROLES) if isinstance(role, str) else ""
        raise DataError(
            f"{where}: role {role!r} is unknown{hint or '; known are ' + ', '.join(ROLES)}"
        )
    if "tool_calls" in item:
        item["tool_calls"] = read_list(item["tool_calls"], f"{where}: field 'tool_calls'")
    calls = bool(item.get("tool_calls"))
    content = item.get("content") if calls else require_field(item, "content", where)
    if calls and content is None:
        return item
    is_learned = to_learn and role == "assistant" and not calls
    read = read_answer if is_learned else read_content
    item["content"] = read(content, f"{where}: field 'content'")
    return item


def drop_nulls(value: Mapping[str, Any], but: tuple[str, ...] = ()) -> dict[str, Any]:
    """The fields that have a value, and those of `but`: tables write null for absent ones."""
    return {name: one for name, one in value.items() if one is not None or name in but}


def read_list(value: Any, where: str) -> list[Any]:
    """Check a list of objects, which may be written as JSON in a string. Raises DataError."""
    if isinstance(value, str):
        try:
            value = load_json(value) if value.strip() else []
        except ValueError:
            raise DataError(f"{where}: a string that is not JSON; a list is needed") from None
    if not isinstance(value, list):
        raise DataError(f"{where}: found {name_type(value)} where a list is needed")
    return value


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
    """Read a string, or the texts of a list of parts, joined. Raises DataError.

    Half of a surrogate pair is refused.
    """
    if isinstance(value, list):
        return "".join(_read_part(part, f"{where}[{i}]") for i, part in enumerate(value))
    if not isinstance(value, str):
        raise DataError(f"{where}: found {name_type(value)} where a string is needed")
    if found := describe_surrogate(value):
        raise DataError(f"{where}: {found}")
    return value


def _read_part(part: Any, where: str) -> str:
    """Read a part of a content: a string, or an object of type text. Raises DataError."""
    if isinstance(part, str):
        return read_content(part, where)
    if not isinstance(part, dict):
        raise DataError(f"{where}: found {name_type(part)} where a part with text is needed")
    kind = part.get("type", "text")
    if kind not in TEXT_PARTS:
        raise DataError(f"{where}: a part of type {kind!r}; only parts of type 'text' can be read")
    text = require_field(part, "text", where)
    if not isinstance(text, str):
        raise DataError(f"{where}: field 'text': found {name_type(text)} where a string is needed")
    return read_content(text, where)


def read_answer(value: Any, where: str) -> str:
    """Read an answer, which has more than white space. Raises DataError."""
    text = read_content(value, where)
    if not text.strip():
        raise DataError(f"{where}: an empty completion; there is nothing to learn from it")
    return text

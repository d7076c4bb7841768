"""Reads conversations from files of instructions and dialogues.

A record is a conversation if it has `messages`, or ShareGPT's `conversations`, or `prompt` and
`completion`, or `instruction` and `output` (and perhaps `input`, as Alpaca's have), or `response`
in place of either answer; it is plain text if it is a string or has `text`. null is absence.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from hermes.chat_templates.messages import (
    Conversation,
    Message,
    as_messages,
    drop_nulls,
    make_message,
    read_answer,
    read_messages,
    read_text,
)
from hermes.data.bad_records import BadRecords
from hermes.data.files import Paths
from hermes.data.records import Record, parse_records, read_records
from hermes.data.text_field import advise_command
from hermes.data.turns import (
    add_context,
    read_context,
    read_instruction,
    read_sharegpt,
    read_tools,
    read_weight,
    split_weights,
)
from hermes.errors import DataError
from hermes.formatting import describe_missing, name_type

__all__ = ["parse_conversation", "read_conversations"]

# The fields of each form, by the field that tells it; the first that a record has counts.
FORMS = {
    "messages": ("messages",),
    "conversations": ("conversations",),
    "prompt": ("prompt", "completion", "response"),
    "instruction": ("instruction", "input", "output", "response"),
    "text": ("text",),
}
CONTEXT = ("system", "history", "tools")


def read_conversations(
    paths: Paths, *, file_format: str | None = None, bad: BadRecords | None = None
) -> Iterator[Conversation]:
    """Yield the conversations of files; formats as in `records`.

    bad: counts bad records, which are left out; None to stop at the first. Raises DataError,
    StorageError.
    """
    return parse_records(
        read_records(paths, file_format=file_format, bad=bad), parse_conversation, bad
    )


def parse_conversation(record: Record) -> Conversation:
    """Parse a record as a conversation with at least one answer. Raises DataError."""
    where = record.where
    if isinstance(record.value, str):
        return Conversation((), where, text=read_text(record.value, where))
    if not isinstance(record.value, dict):
        raise DataError(
            f"{where}: found {name_type(record.value)} where an object or a string is needed"
        )
    value = drop_nulls(record.value)
    form = next((name for name in FORMS if name in value), None)
    if form is None:
        known = (
            "give 'messages', 'conversations', 'prompt' and 'completion', 'instruction' and "
            "'output', or 'text'"
        )
        advice = advise_command(value, "conversations") or known
        raise DataError(f"{where}: {describe_missing('messages', value, advice)}")
    weight = read_weight(value.get("weight", 1), "weight", where)
    read = {*FORMS[form], "weight", *(CONTEXT if form != "text" else ())}
    unread = tuple(name for name in value if name not in read)
    if form == "text":
        text = read_text(value["text"], f"{where}: field 'text'")
        return Conversation((), where, text=text, weight=weight, unread=unread)
    messages, first = _read_turns(value, form, where)
    context = read_context(value, where)
    whole = add_context(context, messages, where)
    whole, weights = split_weights(whole, f"{where}: field {form!r}")
    untrained = frozenset(range(first + len(whole) - len(messages) if first else 0))
    answers = {i for i, message in enumerate(whole) if message["role"] == "assistant"}
    if not answers:
        raise DataError(f"{where}: no message of the assistant, so there is nothing to train on")
    if answers <= {*untrained, *(i for i, own in weights.items() if own == 0)}:
        raise DataError(f"{where}: no message of the assistant is trained on; leave the record out")
    return Conversation(
        whole,
        where,
        tools=read_tools(value, where),
        untrained=untrained,
        weight=weight,
        weights=weights,
        unread=unread,
    )


def _read_turns(value: Mapping[str, Any], form: str, where: str) -> tuple[tuple[Message, ...], int]:
    """Read the messages of a record, and the number of those that are the prompt alone."""
    match form:
        case "messages":
            if "completion" in value:
                raise DataError(
                    f"{where}: both 'messages' and 'completion', so the answer to train on is "
                    "given twice; keep one"
                )
            return read_messages(value["messages"], f"{where}: field 'messages'"), 0
        case "conversations":
            return read_sharegpt(value["conversations"], f"{where}: field 'conversations'"), 0
        case "prompt":
            name = _choose_answer(value, "completion", where)
            prompt = as_messages(value["prompt"], "user", f"{where}: field 'prompt'")
            answer = as_messages(value[name], "assistant", f"{where}: field {name!r}")
            return (*prompt, *answer), len(prompt)
    return parse_alpaca(value, where), 0


def parse_alpaca(value: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    """Parse Stanford Alpaca's instruction, input and output; the input follows the instruction."""
    name = _choose_answer(value, "output", where)
    output = read_answer(value[name], f"{where}: field {name!r}")
    return (make_message("user", read_instruction(value, where)), make_message("assistant", output))


def _choose_answer(value: Mapping[str, Any], name: str, where: str) -> str:
    """Choose the field of the answer, `name` or `response`. Raises DataError."""
    if name in value and "response" in value:
        raise DataError(
            f"{where}: both {name!r} and 'response', so the answer to train on is given twice; "
            "keep one"
        )
    if "response" not in value:
        if name not in value:
            missing = describe_missing(name, value, advise_command(value, "conversations"))
            raise DataError(f"{where}: {missing}")
        return name
    return "response"

"""Turns of conversations as other tools write them, read as messages with role and content.

ShareGPT's `from` and `value`; `system` and `history` beside a record's messages; `weight` and
`train` of a turn.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hermes.chat_templates.messages import (
    Message,
    check_message,
    drop_nulls,
    make_message,
    read_answer,
    read_content,
    read_list,
    require_field,
)
from hermes.errors import DataError, suggest_nearest
from hermes.formatting import name_type
from hermes.storage.plain_json import load_json

__all__ = [
    "TRAINING",
    "add_context",
    "read_context",
    "read_instruction",
    "read_sharegpt",
    "read_sharegpt_turn",
    "read_tools",
    "read_weight",
    "split_weights",
]

# What ShareGPT and LLaMA-Factory call the roles.
SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "assistant": "assistant",
    "model": "assistant",
    "system": "system",
    "developer": "developer",
    "function_call": "assistant",
    "tool_call": "assistant",
    "observation": "tool",
    "tool": "tool",
    "function_response": "tool",
    "function": "tool",
}
CALLS = ("function_call", "tool_call")
TRAINING = ("weight", "train")


def read_sharegpt(value: Any, where: str) -> tuple[Message, ...]:
    """Read a list of turns with `from` and `value`, or with role and content. Raises DataError."""
    turns = read_list(value, where)
    if not turns:
        raise DataError(f"{where}: an empty list of messages")
    return tuple(read_sharegpt_turn(turn, f"{where}[{i}]") for i, turn in enumerate(turns))


def read_sharegpt_turn(turn: Any, where: str) -> Message:
    """Read one turn of ShareGPT. Raises DataError."""
    if not isinstance(turn, dict) or "from" not in turn:
        return check_message(turn, where)
    turn = drop_nulls(turn, ("from",))
    name, said = turn.pop("from"), require_field(turn, "value", where)
    del turn["value"]
    if not isinstance(name, str) or name not in SHAREGPT_ROLES:
        known = ", ".join(SHAREGPT_ROLES)
        hint = suggest_nearest(name, SHAREGPT_ROLES) if isinstance(name, str) else ""
        found = repr(name[:40]) if isinstance(name, str) else name_type(name)
        raise DataError(f"{where}: 'from' is {found}{hint or '; known are ' + known}")
    role = SHAREGPT_ROLES[name]
    if name in CALLS:
        calls = _read_calls(said, f"{where}: field 'value'")
        return check_message({**turn, "role": role, "content": None, "tool_calls": calls}, where)
    return check_message({**turn, "role": role, "content": said}, where)


def _read_calls(said: Any, where: str) -> list[dict[str, Any]]:
    """Read the calls of a ShareGPT turn, JSON with name and arguments, one or a list of them."""
    try:
        found = load_json(said) if isinstance(said, str) else said
    except ValueError:
        found = None
    calls = found if isinstance(found, list) else [found]
    if not calls or not all(isinstance(one, dict) and "name" in one for one in calls):
        raise DataError(
            f"{where}: a call of a function must be JSON with 'name' and 'arguments', found "
            f"{str(said)[:40]!r}"
        )
    return [{"type": "function", "function": one} for one in calls]


def read_instruction(value: Mapping[str, Any], where: str) -> str:
    """Read Stanford Alpaca's instruction and input, which follows it. Raises DataError."""
    said = read_content(value["instruction"], f"{where}: field 'instruction'")
    if value.get("input"):
        said += "\n\n" + read_content(value["input"], f"{where}: field 'input'")
    return said


def read_tools(value: Mapping[str, Any], where: str) -> tuple[Any, ...] | None:
    """Read a record's `tools`, a list or one written as JSON in a string. Raises DataError."""
    tools = value.get("tools")
    if tools is None:
        return None
    return tuple(read_list(tools, f"{where}: field 'tools'")) or None


def read_context(value: Mapping[str, Any], where: str) -> tuple[Message, ...]:
    """Read what a record has said before its messages: `system`, then `history`, pairs of turns.

    Raises DataError.
    """
    found: list[Message] = []
    if "system" in value and read_content(value["system"], f"{where}: field 'system'").strip():
        found.append(make_message("system", read_content(value["system"], where)))
    history = read_list(value.get("history", []), f"{where}: field 'history'")
    for i, pair in enumerate(history):
        at = f"{where}: field 'history'[{i}]"
        if not isinstance(pair, list) or len(pair) != 2:
            raise DataError(
                f"{at}: found {name_type(pair)} where a list of a question and its answer is needed"
            )
        found.append(make_message("user", read_content(pair[0], at)))
        found.append(make_message("assistant", read_answer(pair[1], at)))
    return tuple(found)


def add_context(
    context: Sequence[Message], messages: Sequence[Message], where: str
) -> tuple[Message, ...]:
    """Put a record's context before its messages. Raises DataError for two system prompts."""
    own = [message for message in messages if message["role"] in ("system", "developer")]
    if own and context and context[0]["role"] == "system":
        if own == [context[0]]:
            return (*context, *messages[1:]) if messages[0] == own[0] else tuple(messages)
        raise DataError(
            f"{where}: both a field 'system' and a message of role {own[0]['role']!r}; keep one"
        )
    if own and messages[0] == own[0]:  # the system prompt precedes the history
        return (messages[0], *context, *messages[1:])
    return (*context, *messages)


def split_weights(
    messages: Sequence[Message], where: str
) -> tuple[tuple[Message, ...], dict[int, float]]:
    """Take `weight` and `train` out of messages. -> messages, weights other than 1 by number

    They are 0 or false for an answer that is context only, as OpenAI, Mistral and Axolotl have it.
    Raises DataError for a message of another role that is to be trained on.
    """
    found, weights = [], {}
    for i, message in enumerate(messages):
        at = f"{where}[{i}]"
        is_answer = message["role"] == "assistant"
        weight = 1.0
        for name in TRAINING:
            if name in message:
                weight *= read_weight(message[name], name, at)
        if is_answer and weight != 1:
            weights[i] = weight
        if not is_answer and message.get("train") is True:
            raise DataError(
                f"{at}: field 'train' of a message of role {message['role']!r}; only the "
                "assistant's are trained on, or all tokens with --train-on-prompt"
            )
        found.append({name: one for name, one in message.items() if name not in TRAINING})
    return tuple(found), weights


def read_weight(value: Any, name: str, where: str) -> float:
    """Read a weight: a number that is at least 0, also as text in a CSV; true is 1, false 0.

    Raises DataError.
    """
    try:
        weight = float(value) if isinstance(value, str | int | float) else math.nan
    except ValueError:
        weight = math.nan
    if not 0 <= weight < math.inf:
        raise DataError(f"{where}: field {name!r} is {value!r}; it must be a number from 0 on")
    return weight

"""Reads preference pairs: a prompt, a chosen completion and a rejected one.

A record has `prompt` (or ShareGPT's `conversations`, or `question` or `instruction`), `chosen` and
`rejected`, each a string, a message or a list of messages; or only `chosen` and `rejected`, whole
dialogues whose common beginning is the prompt, as messages or as text in the form of Anthropic's HH
("\\n\\nHuman: ... \\n\\nAssistant: ..."). null is absence.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from hermes.chat_templates.messages import Message, as_messages, drop_nulls
from hermes.data.bad_records import BadRecords
from hermes.data.files import Paths
from hermes.data.records import Record, parse_records, read_records
from hermes.data.text_field import advise_command
from hermes.data.turns import (
    add_context,
    read_context,
    read_instruction,
    read_sharegpt,
    read_sharegpt_turn,
    read_tools,
    read_weight,
    split_weights,
)
from hermes.errors import DataError
from hermes.formatting import describe_missing, name_type

__all__ = ["PreferencePair", "parse_pair", "read_pairs"]

TURN = re.compile(r"\n\n(Human|Assistant):")
DIALOGUE = re.compile(r"\s*Human:|\n\nAssistant:")
FIELDS = ("prompt", "chosen", "rejected")
# What a record calls its prompt; the first that it has counts. `question` is Intel's Orca pairs'.
PROMPTS = ("prompt", "conversations", "question", "instruction")


@dataclass(frozen=True)
class PreferencePair:
    """A prompt and two completions. texts: the three as they were, where all were plain text.

    tools: descriptions of tools for the template. weight: of the pair in the loss. unread: fields
    of the record that nothing reads.
    """

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    where: str
    texts: tuple[str, str, str] | None = None
    tools: tuple[Any, ...] | None = None
    weight: float = 1.0
    unread: tuple[str, ...] = ()


def read_pairs(
    paths: Paths, *, file_format: str | None = None, bad: BadRecords | None = None
) -> Iterator[PreferencePair]:
    """Yield the pairs of files; formats as in `read_records`.

    bad: counts bad records, which are left out; None to stop at the first. Raises DataError,
    StorageError.
    """
    return parse_records(read_records(paths, file_format=file_format, bad=bad), parse_pair, bad)


def parse_pair(record: Record) -> PreferencePair:
    """Parse a record as a pair. Raises DataError, also where both completions are equal."""
    where = record.where
    if not isinstance(record.value, dict):
        raise DataError(f"{where}: found {name_type(record.value)} where an object is needed")
    value = drop_nulls(record.value)
    for name in FIELDS[1:]:
        if name not in value:
            raise DataError(
                f"{where}: {describe_missing(name, value, advise_command(value, 'pairs'))}"
            )
    chosen, rejected = value["chosen"], value["rejected"]
    for name in FIELDS[1:]:
        if value[name] in ("", []) or (isinstance(value[name], str) and value[name].isspace()):
            raise DataError(f"{where}: field {name!r}: an empty completion")
    if chosen == rejected:
        raise DataError(f"{where}: chosen and rejected are equal, so nothing is preferred")
    chosen, rejected = (_list_turn(side, where) for side in (chosen, rejected))
    prompt_field = next((name for name in PROMPTS if name in value), None)
    if prompt_field is None:
        pair = _parse_dialogues(chosen, rejected, where, list(value))
    else:
        prompt = value[prompt_field]
        if prompt_field == "instruction":
            prompt = read_instruction(value, where)
        pair = _parse_completions(prompt, prompt_field, chosen, rejected, where)
    context = read_context(value, where)
    known = {prompt_field, *FIELDS[1:], "system", "history", "tools", "weight"}
    if prompt_field == "instruction":
        known.add("input")
    return replace(
        pair,
        prompt=add_context(context, pair.prompt, where),
        texts=None if context else pair.texts,
        tools=read_tools(value, where),
        weight=read_weight(value.get("weight", 1), "weight", where),
        unread=tuple(name for name in value if name not in known),
    )


def _list_turn(side: Any, where: str) -> Any:
    """A completion that is one turn, as a list of it; turns of ShareGPT as messages."""
    turns = [side] if isinstance(side, dict) else side
    if isinstance(turns, list) and any(isinstance(t, dict) and "from" in t for t in turns):
        return [read_sharegpt_turn(turn, where) for turn in turns]
    return turns


def _parse_completions(
    prompt: Any, name: str, chosen: Any, rejected: Any, where: str
) -> PreferencePair:
    sides = _read_completions(chosen, rejected, where)
    if name == "conversations":
        messages = read_sharegpt(prompt, f"{where}: field {name!r}")
    elif isinstance(prompt, str) and DIALOGUE.match(prompt):
        messages = _parse_dialogue(prompt, f"{where}: field {name!r}")
    else:
        messages = as_messages(prompt, "user", f"{where}: field {name!r}")
    messages, _ = split_weights(messages, f"{where}: field {name!r}")
    texts = (prompt, chosen, rejected)
    plain_text = texts if all(isinstance(text, str) for text in texts) else None
    begun = len(messages)
    if all(side[:begun] == messages and side[begun:] for side in sides):
        # The completions are whole dialogues, which begin with the prompt, as UltraFeedback's do.
        sides = sides[0][begun:], sides[1][begun:]
        for name, side in zip(FIELDS[1:], sides, strict=True):
            _require_answer(side, f"{where}: field {name!r}, after the prompt")
    return PreferencePair(messages, sides[0], sides[1], where, plain_text)


def _read_completions(
    chosen: Any, rejected: Any, where: str
) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    read = []
    for name, side in zip(FIELDS[1:], (chosen, rejected), strict=True):
        at = f"{where}: field {name!r}"
        messages, weights = split_weights(as_messages(side, "assistant", at), at)
        for weight in weights.values():
            raise DataError(
                f"{at}: a message of weight {weight:g}; a completion is preferred as a whole, so "
                "leave 'weight' out"
            )
        _require_answer(messages, at)
        read.append(messages)
    return read[0], read[1]


def _require_answer(messages: tuple[Message, ...], where: str) -> None:
    if not any(message["role"] == "assistant" for message in messages):
        raise DataError(f"{where}: no message of the assistant, so there is nothing to prefer")


def _parse_dialogues(chosen: Any, rejected: Any, where: str, found: list[str]) -> PreferencePair:
    texts = None
    if isinstance(chosen, str) and isinstance(rejected, str):
        for name, text in zip(FIELDS[1:], (chosen, rejected), strict=True):
            if not DIALOGUE.match(text):
                raise DataError(
                    f"{where}: {describe_missing('prompt', found)}; without it {name!r} must be a "
                    "whole dialogue, as messages or as text that begins with 'Human:'"
                )
        texts = _split_common_text(chosen, rejected, where)
        chosen, rejected = _parse_dialogue(chosen, where), _parse_dialogue(rejected, where)
    else:
        chosen, rejected = _read_completions(chosen, rejected, where)
    common = 0
    while common < min(len(chosen), len(rejected)) and chosen[common] == rejected[common]:
        common += 1
    if common == 0:
        raise DataError(
            f"{where}: chosen and rejected have no first message in common, so there is no prompt"
        )
    for name, side in zip(FIELDS[1:], (chosen, rejected), strict=True):
        if common == len(side):
            raise DataError(f"{where}: field {name!r}: an empty completion after the common part")
        _require_answer(side[common:], f"{where}: field {name!r}, after the common part")
    return PreferencePair(
        tuple(chosen[:common]), tuple(chosen[common:]), tuple(rejected[common:]), where, texts
    )


def _parse_dialogue(text: str, where: str) -> tuple[Message, ...]:
    """Parse text in HH's form; an empty last turn of the assistant, which asks, is dropped."""
    _, *parts = TURN.split("\n\n" + text.lstrip())
    roles = {"Human": "user", "Assistant": "assistant"}
    turns = [
        (roles[name], said.strip()) for name, said in zip(parts[::2], parts[1::2], strict=True)
    ]
    if turns and turns[-1] == ("assistant", ""):
        turns.pop()
    for role, said in turns:
        if role == "assistant" and not said:
            raise DataError(f"{where}: an empty turn of the assistant")
    return tuple({"role": role, "content": said} for role, said in turns)


def _split_common_text(chosen: str, rejected: str, where: str) -> tuple[str, str, str]:
    """Split after the last 'Assistant:' that both share. -> prompt, chosen, rejected"""
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    end = chosen[:shared].rfind("\n\nAssistant:")
    if end < 0:
        raise DataError(f"{where}: chosen and rejected share no question to the assistant")
    end += len("\n\nAssistant:")
    return chosen[:end], chosen[end:], rejected[end:]

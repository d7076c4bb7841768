"""Reads preference pairs: a prompt, a chosen completion and a rejected one.

A record has `prompt`, `chosen` and `rejected`, each a string or a list of messages; or only
`chosen` and `rejected`, whole dialogues whose common beginning is the prompt, as lists of messages
or as text in the form of Anthropic's HH data ("\\n\\nHuman: ... \\n\\nAssistant: ...").
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from hermes.chat_templates.encoder import ChatEncoder, Example
from hermes.chat_templates.messages import Conversation, Message, as_messages
from hermes.data.files import Paths
from hermes.data.records import Record, read_records
from hermes.errors import DataError
from hermes.formatting import describe_missing, name_type
from hermes.tokenizer import Tokenizer

__all__ = [
    "EncodedPair",
    "FittedPairs",
    "PreferencePair",
    "encode_pair",
    "encode_plain_pair",
    "fit_pairs",
    "parse_pair",
    "read_pairs",
]

TURN = re.compile(r"\n\n(Human|Assistant):")
DIALOGUE = re.compile(r"\s*Human:|\n\nAssistant:")
FIELDS = ("prompt", "chosen", "rejected")


@dataclass(frozen=True)
class PreferencePair:
    """A prompt and two completions. texts: the three as they were, where all were plain text."""

    prompt: tuple[Message, ...]
    chosen: tuple[Message, ...]
    rejected: tuple[Message, ...]
    where: str
    texts: tuple[str, str, str] | None = None


@dataclass(frozen=True)
class EncodedPair:
    """Both completions, each after the same prompt, as tokens; loss masks cover the completions."""

    chosen: Example
    rejected: Example


def read_pairs(paths: Paths, *, file_format: str | None = None) -> Iterator[PreferencePair]:
    """Yield the pairs of files; formats as in `read_records`. Raises DataError, StorageError."""
    return map(parse_pair, read_records(paths, file_format=file_format))


def parse_pair(record: Record) -> PreferencePair:
    """Parse a record as a pair. Raises DataError, also where both completions are equal."""
    value, where = record.value, record.where
    if not isinstance(value, dict):
        raise DataError(f"{where}: found {name_type(value)} where an object is needed")
    for name in FIELDS[1:]:
        if name not in value:
            raise DataError(f"{where}: {describe_missing(name, value)}")
    chosen, rejected = value["chosen"], value["rejected"]
    for name in FIELDS[1:]:
        if value[name] in ("", []) or (isinstance(value[name], str) and value[name].isspace()):
            raise DataError(f"{where}: field {name!r}: an empty completion")
    if chosen == rejected:
        raise DataError(f"{where}: chosen and rejected are equal, so nothing is preferred")
    if "prompt" not in value:
        return _parse_dialogues(chosen, rejected, where, list(value))
    prompt = value["prompt"]
    sides = _read_completions(chosen, rejected, where)
    if isinstance(prompt, str) and DIALOGUE.match(prompt):
        messages = _parse_dialogue(prompt, f"{where}: field 'prompt'")
    else:
        messages = as_messages(prompt, "user", f"{where}: field 'prompt'")
    texts = (prompt, chosen, rejected)
    plain_text = texts if all(isinstance(text, str) for text in texts) else None
    return PreferencePair(messages, sides[0], sides[1], where, plain_text)


def _read_completions(
    chosen: Any, rejected: Any, where: str
) -> tuple[tuple[Message, ...], tuple[Message, ...]]:
    read = []
    for name, side in zip(FIELDS[1:], (chosen, rejected), strict=True):
        read.append(as_messages(side, "assistant", f"{where}: field {name!r}"))
        _require_answer(read[-1], f"{where}: field {name!r}")
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


def encode_pair(pair: PreferencePair, encoder: ChatEncoder) -> EncodedPair:
    """Encode a pair by the chat template; targets are the assistant's tokens after the prompt."""
    first = len(pair.prompt)
    sides = (
        encoder.encode(Conversation((*pair.prompt, *side), pair.where), first=first)
        for side in (pair.chosen, pair.rejected)
    )
    return _require_different(EncodedPair(*sides))


def encode_plain_pair(pair: PreferencePair, tokenizer: Tokenizer) -> EncodedPair:
    """Encode a pair without a template: prompt, completion and end-of-text token."""
    if pair.texts is None:
        raise DataError(f"{pair.where}: messages need a chat template; leave --no-template out")
    if tokenizer.eos_id is None:
        raise DataError(
            "the tokenizer has no token that ends a text, such as '<|eos|>' or '</s>'; use one "
            "that has"
        )
    prompt = tokenizer.beginning + tokenizer.encode(pair.texts[0])
    if not prompt:
        prompt = [tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id]

    has_text = bool(pair.texts[0])

    def side(text: str) -> Example:
        ids = [*prompt, *tokenizer.encode(text, continued=has_text), tokenizer.eos_id]
        return Example(np.array(ids, np.int32), np.arange(len(ids)) >= len(prompt), pair.where)

    return _require_different(EncodedPair(side(pair.texts[1]), side(pair.texts[2])))


def _require_different(pair: EncodedPair) -> EncodedPair:
    if np.array_equal(pair.chosen.ids, pair.rejected.ids):
        raise DataError(
            f"{pair.chosen.where}: chosen and rejected are equal as tokens, so nothing is preferred"
        )
    return pair


@dataclass(frozen=True)
class FittedPairs:
    """Pairs that fit. cut: how many lost the start of their prompt; dropped: how many are gone."""

    pairs: tuple[EncodedPair, ...]
    cut: int
    dropped: int


def fit_pairs(all_pairs: Iterable[EncodedPair], max_len: int, *, drop: bool = False) -> FittedPairs:
    """Fit pairs to max_len tokens by cutting the beginning of the prompt, equally on both sides.

    A pair whose longer completion leaves no room for a token of the prompt is refused, or with
    `drop` dropped. Raises DataError, also where no pair is left.
    """
    kept, cut, dropped = [], 0, 0
    for pair in all_pairs:
        sides = (pair.chosen, pair.rejected)
        begins = [int(side.loss_mask.argmax()) for side in sides]
        longest = max(len(side) - begin for side, begin in zip(sides, begins, strict=True))
        if max(map(len, sides)) <= max_len:
            kept.append(pair)
        elif longest < max_len:
            room = max_len - longest
            kept.append(
                EncodedPair(
                    *(
                        _cut_beginning(side, begin - room)
                        for side, begin in zip(sides, begins, strict=True)
                    )
                )
            )
            cut += 1
        elif drop:
            dropped += 1
        else:
            raise DataError(
                f"{pair.chosen.where}: a completion of {longest} tokens does not fit --max-len "
                f"{max_len}; choose a longer one, or --drop-overlong"
            )
    if not kept:
        raise DataError(f"no pair is left: all {dropped} have completions that do not fit")
    return FittedPairs(tuple(kept), cut, dropped)


def _cut_beginning(side: Example, count: int) -> Example:
    """Cut an example's first `count` tokens, none of which are targets."""
    if count <= 0:
        return side
    return Example(side.ids[count:], side.loss_mask[count:], side.where)

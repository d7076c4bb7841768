"""Keeps text that spells the name of a special token apart from tokens that a template writes.

While a template runs, such names in messages are replaced by single characters of Unicode's private
planes, which the conversation does not use otherwise.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hermes.chat_templates.messages import Message
from hermes.chat_templates.turns import Turn
from hermes.errors import DataError

__all__ = ["GuardedMessages", "guard_messages"]

PRIVATE = re.compile("[\U000f0000-\U000fffff\U00100000-\U0010ffff]")
# Noncharacters, some of which mark parts of a rendered text (`sandbox`, `turns`).
FORBIDDEN = re.compile("[\ufdd0-\ufdef]")


@dataclass(frozen=True)
class GuardedMessages:
    """Messages whose names of special tokens are replaced, and the names by their stand-ins."""

    turns: tuple[Turn, ...]
    names: Mapping[str, str]

    def split(self, text: str) -> list[tuple[str, bool]]:
        """Split rendered text at stand-ins. -> [(text, whether it stood for a name)]"""
        if not self.names:
            return [(text, False)] if text else []
        parts = re.split(f"([{''.join(map(re.escape, self.names))}])", text)
        return [(self.names.get(part, part), part in self.names) for part in parts if part]

    def restore(self, text: str) -> str:
        """Put the names back."""
        return text.translate({ord(one): name for one, name in self.names.items()})


def guard_messages(
    messages: Sequence[Message], names: re.Pattern[str], source: str = ""
) -> GuardedMessages:
    """Replace what `names` matches in all texts of messages by characters that do not occur.

    source: the template's text, which may have private characters of its own. Raises DataError.
    """
    found: dict[str, None] = {}
    used = set(PRIVATE.findall(source))
    for text in _iterate_texts(messages):
        if not text.isascii():
            used.update(PRIVATE.findall(text))
            if bad := FORBIDDEN.search(text):
                raise DataError(
                    f"the text has U+{ord(bad[0]):04X}, which is no character; take it out"
                )
        found.update(dict.fromkeys(names.findall(text)))
    free = (chr(code) for code in range(0xF0000, 0x10FFFE) if chr(code) not in used)
    stand_ins = dict(zip(found, free, strict=False))
    if len(stand_ins) < len(found):
        raise DataError(
            "the text and the template use every character of Unicode's private planes, of which "
            f"names of special tokens such as {next(iter(found))!r} need some; take them out"
        )
    turns = tuple(
        Turn(_replace(dict(message), names, stand_ins) if found else message, i)
        for i, message in enumerate(messages)
    )
    return GuardedMessages(turns, {one: name for name, one in stand_ins.items()})


def _iterate_texts(value: Any) -> Iterator[str]:
    """Yield all texts of a value, other than the names of fields."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from _iterate_texts(value.values())
    elif isinstance(value, Iterable):
        for inner in value:
            yield from _iterate_texts(inner)


def _replace(value: Any, names: re.Pattern[str], stand_ins: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _replace(inner, names, stand_ins) for key, inner in value.items()}
    if isinstance(value, list):
        return [_replace(inner, names, stand_ins) for inner in value]
    if not isinstance(value, str):
        return value
    return names.sub(lambda name: stand_ins[name[0]], value)

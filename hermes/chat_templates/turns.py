"""Which part of a rendered conversation was written for which message.

A template that marks turns writes, in each loop over messages, a mark at the start of a message and
another after the loop. So the parts of all messages are known from one rendering, however long the
conversation. Marks are Unicode noncharacters, which no text contains.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

__all__ = [
    "MARKS",
    "Turn",
    "add_reads",
    "get_index",
    "list_reads",
    "mark_end_of_loop",
    "mark_turn",
    "split_marked",
]

BEGIN, END, STOP = "\ufdd2", "\ufdd3", "\ufdd4"
MARKS = f"{BEGIN}{END}{STOP}"
# A template may write such characters itself; numbers as long as those would be no marks.
_MARK = re.compile(f"{BEGIN}([0-9]{{1,9}}) ([0-9]{{1,9}}){STOP}|{END}([0-9]{{1,9}}){STOP}")


class Turn(dict[str, Any]):
    """A message as a template gets it: with its number, and a record of the fields it reads."""

    __slots__ = ("_index", "_reads")

    def __init__(self, message: Mapping[str, Any], index: int):
        super().__init__(message)
        self._index, self._reads = index, set[str]()

    @property
    def role(self) -> str:
        """Whose message it is."""
        return str(super().__getitem__("role"))

    def list_unread(self) -> list[str]:
        """List the fields with something in them that no template has read so far."""
        fields = dict.items(self)
        return [name for name, value in fields if value and name not in (*self._reads, "role")]

    def __getitem__(self, key: str) -> Any:
        self._reads.add(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        self._reads.add(str(key))
        return super().__contains__(key)

    def get(self, key: str, default: Any = None) -> Any:
        """As of a dict."""
        self._reads.add(key)
        return super().get(key, default)

    def __iter__(self) -> Iterator[str]:
        self._reads.update(dict.keys(self))
        return super().__iter__()

    def keys(self) -> Any:
        """As of a dict."""
        self._reads.update(dict.keys(self))
        return super().keys()

    def items(self) -> Any:
        """As of a dict."""
        self._reads.update(dict.keys(self))
        return super().items()

    def values(self) -> Any:
        """As of a dict."""
        self._reads.update(dict.keys(self))
        return super().values()


def get_index(message: Mapping[str, Any]) -> int | None:
    """The number of a turn; None for a message that is none."""
    return message._index if isinstance(message, Turn) else None


def list_reads(message: Mapping[str, Any]) -> list[str]:
    """List the fields of a turn that were read; none for a message that is none."""
    return list(message._reads) if isinstance(message, Turn) else []


def add_reads(message: Mapping[str, Any], fields: Iterable[str]) -> None:
    """Note that fields of a turn were read elsewhere."""
    if isinstance(message, Turn):
        message._reads.update(fields)


def mark_turn(item: Any, loop: int, over_messages: set[int]) -> str:
    """The mark at the start of a loop's body, if the loop's item is a message."""
    if not isinstance(item, Turn):
        return ""
    over_messages.add(loop)
    return f"{BEGIN}{loop} {item._index}{STOP}"


def mark_end_of_loop(loop: int, over_messages: set[int]) -> str:
    """The mark after a loop, if it was one over messages."""
    if loop not in over_messages:
        return ""
    over_messages.discard(loop)
    return f"{END}{loop}{STOP}"


def split_marked(text: str) -> tuple[str, dict[int, tuple[int, int]]]:
    """Take the marks out. -> the text, and (begin, end) of the part of each message by its number.

    A message without text, or with several parts, is left out.
    """
    pieces: list[str] = []
    found: dict[int, list[tuple[int, int]]] = {}
    stack: list[tuple[str, int]] = []  # (loop, message), the innermost last
    at = size = 0
    for mark in _MARK.finditer(text):
        at, size = _take(text, at, mark.start(), size, pieces, found, stack)
        at = mark.end()
        loop, index, ended = mark.groups()
        if ended is not None:
            while stack and stack.pop()[0] != ended:
                pass
        elif stack and stack[-1][0] == loop:
            stack[-1] = loop, int(index)
        else:
            stack.append((loop, int(index)))
    _take(text, at, len(text), size, pieces, found, stack)
    return "".join(pieces), {i: parts[0] for i, parts in found.items() if len(parts) == 1}


def _take(
    text: str,
    at: int,
    end: int,
    size: int,
    pieces: list[str],
    found: dict[int, list[tuple[int, int]]],
    stack: list[tuple[str, int]],
) -> tuple[int, int]:
    """Take text[at:end], which belongs to the message on top of the stack. -> end, new size"""
    if end > at:
        pieces.append(text[at:end])
        if stack:
            parts = found.setdefault(stack[-1][1], [])
            if parts and parts[-1][1] == size:
                parts[-1] = parts[-1][0], size + end - at
            else:
                parts.append((size, size + end - at))
    return end, size + end - at

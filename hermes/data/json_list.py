"""Reads the items of a JSON list one after the other, so that memory holds the longest alone.

The decoder is that of Python's json; what it is given is the text that was read so far, and more
where a value does not end in it. Errors have the place in the file.
"""

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

from hermes.data.files import require_short
from hermes.errors import DataError
from hermes.formatting import name_type
from hermes.storage.plain_json import DuplicateKeyError, decode_json, explain_json_error

__all__ = ["read_json_list"]

ADVICE = "a file of one object a line is called .jsonl"
HINT = f"one list is needed; {ADVICE}"
SPACE = re.compile(r"[ \t\n\r]*")
# How far before the end of a text an error may be that is of the text's breaking off: the longest
# are a literal, -Infinity, and a pair of surrogates, \ud83d\ude00.
NEAR = 16


def read_json_list(parts: Iterable[str], name: str) -> Iterator[Any]:
    """Yield the items of a list, of which `parts` are the text; none where there is only space.

    Raises DataError where it is no JSON, or no list.
    """
    text = _JsonText(parts, name)
    first = text.find_next()
    if not first:
        return
    if first != "[":
        value = text.decode()
        if text.find_next():
            raise text.explain("extra data")
        raise DataError(f"{name}: found {name_type(value)} where a list is needed; {ADVICE}")
    text.at += 1
    if text.find_next() != "]":
        yield text.decode()
        while (following := text.find_next()) == ",":
            text.at += 1
            text.find_next()
            yield text.decode()
        if following != "]":
            raise text.explain("expecting ',' delimiter")
    text.at += 1
    if text.find_next():
        raise text.explain("extra data")


class _JsonText:
    """A text of which some is read. at: where the next value or sign is in what is held."""

    def __init__(self, parts: Iterable[str], name: str):
        self._parts, self._name = iter(parts), name
        self._text, self.at = "", 0
        self._lines, self._columns = 0, 0  # before the text that is held
        self._is_whole = False

    def _read_more(self) -> None:
        """Read as much again as is held, and let go of what is done."""
        done, held = self._text[: self.at], self._text[self.at :]
        line, _ = self._locate(self.at)
        require_short(len(held), f"{self._name}:{line}", "value of a list")
        self._lines += done.count("\n")
        last = done.rfind("\n")
        self._columns = len(done) - last - 1 if last >= 0 else self._columns + len(done)
        parts, size, wanted = [held], 0, max(len(held), 1)
        while size < wanted:
            part = next(self._parts, None)
            if part is None:
                self._is_whole = True
                break
            parts.append(part)
            size += len(part)
        self._text, self.at = "".join(parts), 0

    def find_next(self) -> str:
        """The next character that is no space, where `at` is then; "" at the end."""
        while True:
            found = SPACE.match(self._text, self.at)
            assert found is not None, "it may be empty"
            self.at = found.end()
            if self.at < len(self._text):
                return self._text[self.at]
            if self._is_whole:
                return ""
            self._read_more()

    def decode(self) -> Any:
        """Decode the value that begins here, and go behind it. Raises DataError."""
        while True:
            try:
                value, end = decode_json(self._text, self.at)
            except json.JSONDecodeError as error:
                breaks_off = error.msg.startswith("Unterminated string")
                breaks_off |= error.pos >= len(self._text) - NEAR
                if self._is_whole or not breaks_off:
                    raise self.explain(explain_json_error(error), error.pos) from None
            except DuplicateKeyError as error:
                line, _ = self._locate(self.at)
                raise DataError(f"{self._name}:{line}: {error}; keep one") from None
            except ValueError as error:  # NaN, a number too long, nesting too deep
                line, _ = self._locate(self.at)
                raise DataError(
                    f"{self._name}:{line}: JSON that cannot be read ({error}); {HINT}"
                ) from None
            else:
                # A number near the end may go on: 1, 1. and 1e+ are beginnings of 1.5 and 1e+9.
                ends = self._text[end : end + 1] in {*" \t\n\r,]"} or end < len(self._text) - NEAR
                if ends or self._is_whole or not isinstance(value, int | float):
                    self.at = end
                    return value
            self._read_more()

    def _locate(self, at: int) -> tuple[int, int]:
        """The line and the column, from 1, of a place in the text that is held."""
        before = self._text[:at]
        last = before.rfind("\n")
        column = len(before) - last if last >= 0 else self._columns + len(before) + 1
        return self._lines + before.count("\n") + 1, column

    def explain(self, reason: str, at: int | None = None) -> DataError:
        """The error about a place, that of the next value if None."""
        place = self.at if at is None else at
        # For a text that breaks off it is after its line end: tell the last character.
        line, column = self._locate(min(place, len(self._text.rstrip())))
        return DataError(f"{self._name}:{line}:{column}: not JSON ({reason}); {HINT}")

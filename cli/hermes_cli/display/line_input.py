"""What a user types or pipes in, where it is a text for the model."""

import sys

from hermes.errors import DataError
from hermes.formatting import describe_surrogate

__all__ = ["read_line", "read_whole_input"]


def read_line(prompt: str) -> str:
    """Read a line that is typed. Raises EOFError at the end, DataError where it is no text."""
    try:
        line = input(prompt)
    except UnicodeDecodeError as error:
        raise _refuse("the line", error) from None
    return _require_text("the line", line)


def read_whole_input() -> str:
    """Read standard input to its end. Raises DataError where it is no text."""
    try:
        text = sys.stdin.read()
    except UnicodeDecodeError as error:
        raise _refuse("standard input", error) from None
    return _require_text("standard input", text)


def _refuse(what: str, error: UnicodeDecodeError) -> DataError:
    return DataError(
        f"{what} is not UTF-8 (0x{error.object[error.start]:02x}); convert it to UTF-8"
    )


def _require_text(what: str, text: str) -> str:
    """Where the locale is C, Python keeps bytes that are not UTF-8 as halves of surrogate pairs."""
    if found := describe_surrogate(text):
        raise DataError(f"{what} is {found}")
    return text

"""Text for people: numbers with units, aligned columns, JSON types and missing fields."""

from collections.abc import Collection, Iterable, Sequence
from difflib import get_close_matches
from itertools import islice
from typing import Any

__all__ = [
    "describe_missing",
    "describe_surrogate",
    "format_columns",
    "format_count",
    "format_with_unit",
    "list_first",
    "name_type",
]


def format_count(count: int, many: str, one: str = "") -> str:
    """Format a count with its noun: 1 row, 1,200 rows.

    one: the singular, where dropping the s of `many` does not give it.
    """
    return f"{count:,} {(one or many.removesuffix('s')) if count == 1 else many}"


def format_with_unit(count: float, unit: str) -> str:
    """Format a count with three digits and an SI prefix: 498 MB, 2.55 GFLOP, 512 B."""
    for prefix in ("", "k", "M", "G", "T", "P", "E", "Z"):
        if abs(count) < 999.5 or prefix == "Z":
            break
        count /= 1000
    if not prefix:
        return f"{count:.0f} {unit}"
    digits = 2 if abs(count) < 9.995 else 1 if abs(count) < 99.95 else 0
    return f"{count:.{digits}f} {prefix}{unit}"


def name_type(value: Any) -> str:
    """Name the type of a JSON value in words; of numbers and booleans, show the value."""
    kinds = {dict: "an object", list: "a list", str: "a string", type(None): "null"}
    kinds |= {bytes: "bytes"}  # of Parquet
    return kinds.get(type(value), repr(value)[:40])


def list_first(words: Collection[str], most: int = 8) -> str:
    """Join words by commas: the first ones, and how many more there are."""
    more = len(words) - most
    return ", ".join(islice(words, most)) + (f" and {more:,} more" if more > 0 else "")


def describe_missing(
    field: str, found: Iterable[str], advice: str = "", *, chosen: bool = False
) -> str:
    """Describe a missing field: its name, the fields found, and the nearest of them or advice.

    chosen: the field holds text and its name is an option that the user can change.
    """
    names = [str(name) for name in found]
    shown = ", ".join(repr(name[:40]) for name in names[:8]) + (", ..." * (len(names) > 8))
    folded = {name.lower(): name for name in names}
    end = f"; {advice}" if advice else ""
    for close in get_close_matches(field.lower(), folded, n=1):
        end = f"; did you mean {'' if chosen else 'it by '}{folded[close]!r}?"
    return f"no {'text ' if chosen else ''}field {field!r}, only {shown or 'none'}{end}"


def format_columns(rows: Iterable[Sequence[str]], *, right: Iterable[int] = ()) -> list[str]:
    """Format rows as lines of aligned columns; those whose index is in `right` align right."""
    table = [list(row) for row in rows]
    widths = [max(map(len, column)) for column in _transpose(table)]
    right_aligned = set(right)
    return [
        "  ".join(
            cell.rjust(width) if index in right_aligned else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=False))
        ).rstrip()
        for row in table
    ]


def _transpose(table: Sequence[Sequence[str]]) -> list[list[str]]:
    """Turn rows into columns; rows may differ in length."""
    width = max((len(row) for row in table), default=0)
    return [[row[index] for row in table if index < len(row)] for index in range(width)]


def describe_surrogate(text: str) -> str:
    """What is wrong with the first character of a text that is none, and what to do; "" without.

    Such are halves of surrogate pairs, and bytes that were not UTF-8 and were kept as some (PEP
    383).
    """
    if text.isascii():
        return ""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        found = ord(text[error.start])
        if 0xDC80 <= found <= 0xDCFF:
            return f"not UTF-8 (0x{found - 0xDC00:02x}); convert it to UTF-8"
        return (
            f"half of a surrogate pair, \\u{found:04x}, which is not a character; write the text "
            "as UTF-8"
        )
    return ""

"""Counts the bytes of text by writing system."""

import unicodedata
from collections import Counter
from functools import cache

import numpy as np

__all__ = ["ScriptCounter", "name_script"]

HELD = 1 << 20  # characters counted at a time
# First words of names that are not yet the name of a writing system, or need the second one.
PREFIXES = {"FULLWIDTH", "HALFWIDTH", "COMBINING", "MODIFIER", "SUPERSCRIPT", "SUBSCRIPT"}
TWO_WORDS = {
    *("OLD", "LINEAR", "TAI", "NEW", "SYLOTI", "MEETEI", "OL", "CANADIAN", "KHITAN"),
    *("ANATOLIAN", "EGYPTIAN", "INSCRIPTIONAL", "PSALTER", "SORA", "PAU", "WARANG", "MASARAM"),
}
OTHERWISE = {
    "CJK": "Han", "IDEOGRAPHIC": "Han", "FEMININE": "Latin", "MASCULINE": "Latin",
    "KELVIN": "Latin", "ANGSTROM": "Latin", "MICRO": "Greek", "OHM": "Greek",
    "MATHEMATICAL": "mathematical", "DOUBLE-STRUCK": "mathematical", "SCRIPT": "mathematical",
    "BLACK-LETTER": "mathematical", "LETTER": "marks", "ACUTE": "marks", "GRAVE": "marks",
    "VARIATION": "marks", "ENCLOSING": "marks",
}  # fmt: skip
KINDS = {
    "N": "digits",
    "P": "punctuation",
    "S": "symbols",
    "Z": "spaces",
    "C": "control characters",
}


@cache
def name_script(character: str) -> str:
    """Name a letter's writing system, as its name in Unicode begins; else what kind it is.

    Marks above letters of any system are 'marks'.
    """
    category = unicodedata.category(character)
    if category == "Co":
        return "private use"
    if category == "Cn":
        return "unassigned"
    if character in "\t\n\r":
        return "spaces"
    if category[0] not in "LM":
        return KINDS[category[0]]
    words = unicodedata.name(character, "unnamed").split()
    prefix = words[0] in PREFIXES
    if prefix and (category[0] == "M" or words[0] == "MODIFIER"):
        return "marks"
    words = words[1:] if prefix and len(words) > 1 else words
    first = words[0].partition("-")[0] if words[0] not in OTHERWISE else words[0]
    if first in TWO_WORDS and len(words) > 1:
        return f"{first} {words[1]}".title()
    return OTHERWISE.get(first, first.capitalize())


class ScriptCounter:
    """Counts the bytes in UTF-8 of each writing system, a million characters at a time."""

    def __init__(self) -> None:
        self._held: list[str] = []
        self._size = 0
        self._counts = np.zeros(0x110000, np.int64)

    def add(self, text: str) -> None:
        """Count one more text."""
        self._held.append(text)
        self._size += len(text)
        if self._size >= HELD:
            self._count()

    def _count(self) -> None:
        codes = np.frombuffer("".join(self._held).encode("utf-32-le"), "<u4")
        self._counts += np.bincount(codes, minlength=0x110000)
        self._held, self._size = [], 0

    def sum_bytes(self) -> dict[str, int]:
        """The bytes of each writing system, most first."""
        self._count()
        found: Counter[str] = Counter()
        for code in np.flatnonzero(self._counts).tolist():
            character = chr(code)
            size = len(character.encode()) * int(self._counts[code])
            found[name_script(character)] += size
        return dict(found.most_common())

"""The nodes of a MAL file, made by the parser from a text or by the writer from a spec.

`at` is a node's offset in the text; 0 if it was not parsed.
"""

from dataclasses import dataclass

__all__ = [
    "Body",
    "Definition",
    "Field",
    "List",
    "Number",
    "String",
    "Tree",
    "Value",
    "Word",
    "quote",
]


@dataclass(frozen=True, slots=True)
class Number:
    """A number, as it was written."""

    text: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class String:
    """The text between double quotes, its escapes resolved."""

    text: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class Word:
    """A name as a value, with or without a body: none, true, my_block, rope { theta: 5e5 }."""

    name: str
    body: "Body | None" = None
    at: int = 0


@dataclass(frozen=True, slots=True)
class List:
    """Values in brackets."""

    values: "tuple[Value, ...]"
    at: int = 0


@dataclass(frozen=True, slots=True)
class Field:
    """A key and its value; the value of `key { ... }` is a Body."""

    key: str
    value: "Value"
    at: int = 0


@dataclass(frozen=True, slots=True)
class Body:
    """Fields in braces. skipped: the keys of those that could not be parsed, "" for no key."""

    fields: tuple[Field, ...]
    at: int = 0
    skipped: tuple[str, ...] = ()


Value = Number | String | Word | Body | List


@dataclass(frozen=True, slots=True)
class Definition:
    """A named part, `attention local { ... }`: its kind, name and body."""

    kind: str
    name: str
    body: Body
    at: int = 0
    name_at: int = 0


@dataclass(frozen=True, slots=True)
class Tree:
    """The definitions of a file, and where its comments begin.

    has_gaps: whether something at the level of definitions could not be parsed.
    """

    definitions: tuple[Definition, ...]
    comments: tuple[int, ...] = ()
    has_gaps: bool = False


def quote(text: str) -> str:
    """Quote a word for an error, cut to 40 characters."""
    return repr(text if len(text) <= 40 else f"{text[:37]}...")

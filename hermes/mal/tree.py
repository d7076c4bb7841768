"""The nodes of a MAL file: what the parser makes of a text, and the writer of a spec.

`at` is the place in the text, an offset; 0 where a tree was not read from one.
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
    """A number as it was written."""

    text: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class String:
    """The text between double quotes, its escapes resolved."""

    text: str
    at: int = 0


@dataclass(frozen=True, slots=True)
class Word:
    """A name standing as a value: none, true, my_block, or rope with a body."""

    name: str
    body: "Body | None" = None
    at: int = 0


@dataclass(frozen=True, slots=True)
class List:
    """Values between brackets."""

    values: "tuple[Value, ...]"
    at: int = 0


@dataclass(frozen=True, slots=True)
class Field:
    """A key and its value; `key { ... }` has a Body."""

    key: str
    value: "Value"
    at: int = 0


@dataclass(frozen=True, slots=True)
class Body:
    """Fields between braces."""

    fields: tuple[Field, ...]
    at: int = 0


Value = Number | String | Word | Body | List


@dataclass(frozen=True, slots=True)
class Definition:
    """`attention local { ... }`: kind, name and body."""

    kind: str
    name: str
    body: Body
    at: int = 0
    name_at: int = 0


@dataclass(frozen=True, slots=True)
class Tree:
    """A file's definitions, and where its comments begin."""

    definitions: tuple[Definition, ...]
    comments: tuple[int, ...] = ()


def quote(text: str) -> str:
    """A word by repr, cut where it would fill the screen."""
    return repr(text if len(text) <= 40 else f"{text[:37]}...")

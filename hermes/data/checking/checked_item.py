"""What a check looks at: a document, a conversation or a pair, with its tokens."""

from dataclasses import dataclass, field

from hermes.chat_templates.example import Example

__all__ = ["CheckedExample", "CheckedItem"]


@dataclass(frozen=True)
class CheckedExample:
    """An example of a run. longest: its tokens, of a pair those of the longer side.

    tokens: of both sides. trained: targets. ends: whether an end of text or turn is a target.
    sides: what may be shown of it, its beginning or more; of a pair both.
    """

    where: str
    longest: int
    tokens: int
    trained: int
    ends: bool
    sides: tuple[Example, ...] = ()


@dataclass(frozen=True)
class CheckedItem:
    """A document or a part of one, a conversation or a pair. texts: its text, in pieces.

    examples: with a tokenizer, and of a document with its last part. is_equal: a pair whose chosen
    equals rejected. more: whether the document goes on in the next item.
    """

    where: str
    texts: list[str]
    examples: list[CheckedExample] = field(default_factory=list)
    is_equal: bool = False
    more: bool = False

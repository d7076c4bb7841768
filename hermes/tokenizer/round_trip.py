"""Says which texts do not come back from a tokenizer's tokens, by trying some of each kind."""

from collections.abc import Sequence
from typing import Protocol

__all__ = ["describe_losses"]

# What tokenizers are known to change, and a text that shows it.
TRIED = (
    ("the beginning of a text", "a"),
    ("a space at the beginning", " a"),
    ("a space at the end", "a "),
    ("several spaces", "a  b"),
    ("line breaks", "a\nb"),
    ("tabs", "a\tb"),
    ("capital letters", "aBc"),
    ("accents", "é"),
    ("combining marks", "e\u0301"),
    ("ligatures", "ﬁ"),
    ("wide letters", "Ａ"),
    ("typographic quotes", "“a”"),
    ("double backquotes", "``a''"),
    ("control characters", "a\x01b"),
    ("spaces of no width", "a\u200bb"),
    ("the letter for a space", "a▁b"),
    ("rare characters", "a🦄b"),
)


class _Coder(Protocol):
    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...


def describe_losses(tokenizer: _Coder, lacking: Sequence[int]) -> tuple[str, ...]:
    """Describe what does not come back, a sentence each. lacking: bytes without a token."""
    said = []
    if lacking:
        named = ", ".join(f"{byte:02X}" for byte in lacking[:8])
        more = f" and {len(lacking) - 8} more" if len(lacking) > 8 else ""
        said.append(
            f"the tokenizer has no token for the bytes {named}{more}, so characters with them are "
            "left out of a text"
        )
    changed = []
    for what, text in TRIED:
        back = tokenizer.decode(tokenizer.encode(text))
        if back != text:
            changed.append(f"{what} ({text!r} becomes {back!r})")
    if changed:
        said.append(f"the tokenizer does not give back every text: {'; '.join(changed)}")
    return tuple(said)

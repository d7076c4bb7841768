"""The tokens of a tokenizer: their ids, names and bytes."""

from collections.abc import Iterable
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.errors import DataError
from hermes.tokenizer.spelling import Spelling

__all__ = ["Vocabulary"]


class Vocabulary:
    """The tokens of a pipeline of Hugging Face tokenizers, as a spelling spells them.

    size: the largest id + 1. special_ids: tokens that stand for no text. added_ids: all that are
    found in a text before the model.
    """

    def __init__(self, pipeline: Any, spelling: Spelling):
        self.spelling = spelling
        self._ids: dict[str, int] = pipeline.get_vocab(with_added_tokens=True)
        self._names = {number: name for name, number in self._ids.items()}
        added = pipeline.get_added_tokens_decoder()
        self._added = {token.content: int(number) for number, token in added.items()}
        self.added_ids = frozenset(self._added.values())
        self.special_ids = frozenset(n for n, token in added.items() if token.special)
        self.size = max(self._ids.values(), default=-1) + 1
        self._bytes: list[bytes | None] = [None] * self.size
        for name, number in self._ids.items():
            self._bytes[number] = self._spell(name, number)

    def _spell(self, name: str, number: int) -> bytes:
        if number in self.special_ids:
            return name.encode()
        is_added = number in self.added_ids
        return self.spelling.spell_added(name) if is_added else self.spelling.spell(name)

    def find_id(self, name: str) -> int | None:
        """Find the id of a token by its name."""
        return self._added.get(name, self._ids.get(name))

    def find_added(self, *names: str) -> int | None:
        """Find the id of the first of these names that is an added token."""
        return next((self._added[name] for name in names if name in self._added), None)

    def find_name(self, token: int) -> str | None:
        """Find a token's name; None for an unknown id."""
        return self._names.get(token)

    def get_bytes(self, token: int) -> bytes:
        """Get a token's bytes; a special token's are its name. Raises DataError for unknown ids."""
        found = self._bytes[token] if 0 <= token < self.size else None
        if found is None:
            raise DataError(f"token id {token} is not in the tokenizer's vocabulary")
        return found

    def join(self, ids: Iterable[int], skip_special: bool, continued: bool) -> bytes:
        """Join the bytes of ids. Raises DataError for unknown ids."""
        skipped = self.special_ids if skip_special else frozenset()
        kept = [token for token in _read_ids(ids) if token not in skipped]
        spelt = [self.get_bytes(i) for i in kept]
        if kept and not continued:
            spelt[0] = self._begin_text(kept[0], spelt[0])
        return b"".join(spelt)

    def _begin_text(self, token: int, spelt: bytes) -> bytes:
        """The bytes of a token at the beginning of a text, which SentencePiece's mark."""
        strip = self.spelling.strip
        if strip == "nothing" or token in self.special_ids:
            return spelt
        return spelt.removeprefix(b" ") if strip == "one space" else spelt.replace(b" ", b"")

    @cached_property
    def byte_lengths(self) -> NDArray[np.int32]:
        """The number of bytes of text of each id, 0 for special tokens. (V,)"""
        lengths = np.array([len(spelt or b"") for spelt in self._bytes], np.int32)
        lengths[list(self.special_ids)] = 0
        return lengths

    @cached_property
    def _mark_lengths(self) -> NDArray[np.int64]:
        """How many bytes of each id are taken away at the beginning of a text. (V,)"""
        spelt = [one or b"" for one in self._bytes]
        kept = [len(self._begin_text(number, one)) for number, one in enumerate(spelt)]
        return np.array([*map(len, spelt)], np.int64) - np.array(kept, np.int64)

    def count_bytes(self, ids: NDArray[np.integer], counted: NDArray[np.bool_] | None) -> int:
        """Count the bytes of text of ids, of those `counted` if not of all."""
        every = np.asarray(ids)
        chosen = every if counted is None else every[counted]
        counts = np.bincount(chosen, minlength=self.size)
        total = int(counts @ self.byte_lengths.astype(np.int64))
        if self.spelling.strip == "nothing":
            return total
        begins = np.concatenate([[True], np.isin(every, list(self.special_ids))[:-1]])
        begins &= True if counted is None else counted
        return total - int(self._mark_lengths[every[begins]].sum())

    def count_differing(self, other: "Vocabulary") -> int:
        """Count the ids that have another meaning, or none, in another vocabulary."""
        others = [*other._bytes, *[None] * self.size]
        both = zip(self._bytes, others, strict=False)
        return sum(own is not None and own != theirs for own, theirs in both)


def _read_ids(ids: Iterable[int]) -> list[int]:
    """Token ids as Python's integers. Raises DataError for what are none, such as a text."""
    found = []
    try:
        for given in ids:
            number = int(given)
            if number != given:  # a half, or a digit of a text
                raise ValueError
            found.append(number)
    except (TypeError, ValueError):
        shown = " ".join(f"{ids!r:.40}".split())
        raise DataError(f"tokens are given by their ids, whole numbers; got {shown}") from None
    return found

"""The encoding pipelines of one tokenizer, objects of Hugging Face tokenizers."""

from array import array
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.errors import DataError
from hermes.rust_panics import drop_panics
from hermes.tokenizer.tokenizer_json import (
    Config,
    make_continuing,
    make_pipeline,
    protect_special_tokens,
)

__all__ = ["Pipelines"]

NEAR = 128  # characters on each side by which a cut is judged


class Pipelines:
    """The pipelines that encode a text, or a part of one, made when they are first needed.

    original: as the file has it. Raises DataError.
    """

    def __init__(self, text: str, config: Config, source: str):
        self.original = make_pipeline(text, source)
        # In the library, this flag means: encode special tokens as if they were ordinary text.
        self.original.encode_special_tokens = True
        self._config, self._source = config, source
        self._special = [
            token.content
            for token in self.original.get_added_tokens_decoder().values()
            if token.special
        ]
        self._get = cache(self._make)

    def _make(self, special: bool, continued: bool, after_special: bool) -> Any:
        """Make a pipeline. -> the object; of the same kind for what does not differ"""
        edited = make_continuing(self._config, after_special=after_special) if continued else None
        if continued and edited is None:
            return self._get(special, False, False)
        config = edited or self._config
        if not special:
            # Text that spells the name of a special token stays text.
            protected = protect_special_tokens(config, self._special)
            if protected is None and edited is None:
                return self.original
            config = protected or config
        made = make_pipeline(config, self._source)
        made.encode_special_tokens = not special
        return made

    def encode(
        self,
        texts: Sequence[str],
        continued: Sequence[bool],
        special: bool,
        *,
        after_special: bool = False,
    ) -> list[list[int]]:
        """Encode each text. Raises DataError where one has half a surrogate pair.

        continued: of each text, whether it continues another; all of those `after_special`.
        """
        encodings = self._make_encodings(texts, continued, special, after_special)
        return [encoding.ids for encoding in encodings]

    def encode_to_arrays(
        self, texts: Sequence[str], continued: Sequence[bool]
    ) -> list[NDArray[np.uint32]]:
        """As `encode`, without special tokens. -> of each text, a part of one array"""
        # Each list is freed before the next is made, so that their memory is used again: of
        # 3 million ids, that takes a third of the time of all lists at once and an array of each.
        joined, ends = array("I"), []
        for encoding in self._make_encodings(texts, continued, False, False):
            joined.fromlist(encoding.ids)
            ends.append(len(joined))
        whole = np.frombuffer(joined, np.uint32)
        return [whole[start:end] for start, end in zip([0, *ends[:-1]], ends, strict=bool(ends))]

    def _make_encodings(
        self,
        texts: Sequence[str],
        continued: Sequence[bool],
        special: bool,
        after_special: bool,
    ) -> list[Any]:
        """The library's encoding of each text."""
        if not any(continued):
            return _encode(self._get(special, False, False), texts)
        encoded: dict[int, Any] = {}
        for flag in (False, True):
            chosen = [i for i, one in enumerate(continued) if one is flag]
            inner = self._get(special, flag, flag and after_special)
            found = _encode(inner, [texts[i] for i in chosen])
            encoded.update(zip(chosen, found, strict=True))
        return [encoded[i] for i in range(len(texts))]

    def can_cut(self, left: str, right: str) -> bool:
        """Whether the tokens near a cut are those of both sides, the right one continuing.

        Where a side has too few characters to judge by, it is not.
        """
        if min(len(left), len(right)) < NEAR:
            return False
        near, after = left[-NEAR:], right[:NEAR]
        whole, one, two = self.encode([near + after, near, after], [True] * 3, False)
        return whole == one + two


def _encode(inner: Any, texts: Sequence[str]) -> list[Any]:
    try:
        with drop_panics():
            encodings: list[Any] = inner.encode_batch_fast(list(texts), add_special_tokens=False)
    except TypeError:
        for text in texts:
            if found := next((c for c in text if "\ud800" <= c <= "\udfff"), None):
                raise DataError(
                    f"the text has U+{ord(found):04X}, half of a surrogate pair, which is not "
                    "a character; read it as UTF-8"
                ) from None
        raise
    except BaseException as error:  # the library raises Exception, and PanicException for a bug
        if isinstance(error, KeyboardInterrupt | SystemExit | MemoryError):
            raise
        reason = " ".join(str(error).split())
        why = "as its tokenizer.json is damaged"
        if "retry-limit" in reason:
            why = "on which a regular expression of its tokenizer.json takes too many steps"
        raise DataError(f"the tokenizer cannot encode a text, {why}: {reason}") from None
    return encodings

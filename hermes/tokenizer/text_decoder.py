"""Text from tokens that arrive one at a time."""

import codecs

from hermes.tokenizer.vocabulary import Vocabulary

__all__ = ["TextDecoder"]


class TextDecoder:
    """Decodes tokens one at a time into whole characters, which join to `Tokenizer.decode`."""

    def __init__(self, vocabulary: Vocabulary, skip_special: bool, continued: bool):
        self._vocabulary = vocabulary
        self._skip_special = skip_special
        self._continued = self._begun = continued
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """Decode the characters that this token completes; '' in the middle of one."""
        if self._skip_special and token in self._vocabulary.special_ids:
            return ""
        spelt = self._vocabulary.join([token], False, self._begun)
        self._begun = True
        return self._decoder.decode(spelt)

    def flush(self) -> str:
        """Return an incomplete character as U+FFFD, else ''; the decoder can be used again."""
        rest = self._decoder.decode(b"", final=True)
        self._decoder.reset()
        self._begun = self._continued
        return rest

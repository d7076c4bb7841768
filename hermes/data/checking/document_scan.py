"""What a check finds in the text of one document, of which no more than a piece is held."""

import hashlib
import re
from collections.abc import Iterable

from hermes.data.checking.near_duplicates import Sketch

__all__ = ["DocumentScan"]

# UTF-8 that was read as Windows-1252 or Latin-1: the lead byte of a letter with a mark, or of
# typographic punctuation, and what follows it.
MOJIBAKE = re.compile("[ÃÂ][\u0080-\u00bf]|â€[\u0080-\u2122œžŸ]|ðŸ")


class DocumentScan:
    """Looks at the texts of a document as they come.

    sketch: takes them, too, where near duplicates are looked for.
    """

    def __init__(self, sketch: Sketch | None = None):
        self.sketch = sketch
        self.text_bytes = self.characters = 0
        self.has_replacement = self.has_mojibake = self.has_nul = False
        self._digest = hashlib.blake2b(digest_size=8)

    def add(self, texts: Iterable[str]) -> None:
        """Look at the next texts of the document."""
        for text in texts:
            encoded = text.encode()
            self._digest.update(encoded)
            self.text_bytes += len(encoded)
            self.characters += len(text)
            self.has_replacement = self.has_replacement or "\ufffd" in text
            self.has_mojibake = self.has_mojibake or MOJIBAKE.search(text) is not None
            self.has_nul = self.has_nul or "\0" in text
            if self.sketch is not None:
                self.sketch.add(text)

    @property
    def hash(self) -> int:
        """64 bits of the document's text."""
        return int.from_bytes(self._digest.digest(), "little")

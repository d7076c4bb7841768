"""Finds documents that share most of their text, by MinHash (datasketch, the extra `dedup`).

Source: Broder 1997, "On the resemblance and containment of documents"; Lee et al. 2022,
"Deduplicating training data makes language models better", arXiv:2107.06499.
"""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

from hermes.errors import DataError, HermesError

__all__ = ["NearDuplicates", "ShingleCutter", "Sketch"]

WORDS = 5  # of a shingle
CHARACTERS = 8  # of a shingle where spaces do not divide words
LONGEST_WORD = 20  # on average, above which spaces do not
HASHES = 128
HELD = 1 << 20  # characters cut at a time


class ShingleCutter:
    """Cuts a document, whose texts come one after the other, into its shingles.

    Every five words in a row; of text without spaces every eight characters. Which of the two is
    seen from the first `HELD` characters.
    """

    def __init__(self) -> None:
        self._texts: list[str] = []
        self._size = 0
        self._has_words: bool | None = None
        self._words: list[str] = []  # the last ones, with which later shingles begin
        self._is_cut = False  # whether there was a shingle

    def add(self, text: str) -> Iterator[bytes]:
        """Take a text, and yield shingles where much is held."""
        self._texts.append(text)
        self._size += len(text)
        if self._size >= HELD:
            yield from self._cut(is_last=False)

    def finish(self) -> Iterator[bytes]:
        """Yield the rest: of the shortest text one shingle, with what there is."""
        yield from self._cut(is_last=True)

    def _cut(self, is_last: bool) -> Iterator[bytes]:
        text = "".join(self._texts)
        words = text.split()
        self._texts, self._size = [], 0
        if not words and not is_last:
            return
        if self._has_words is None:
            self._has_words = len(text) <= LONGEST_WORD * len(words)
        is_open = self._has_words and not is_last and not text[-1].isspace()
        if is_open and len(words[-1]) < HELD:
            unfinished = words.pop()
            self._texts, self._size = [unfinished], len(unfinished)
        parts = [*self._words, *(words if self._has_words else "".join(words))]
        length = WORDS if self._has_words else CHARACTERS
        space = " " if self._has_words else ""
        least = 1 if is_last and not self._is_cut else 0
        count = max(least, len(parts) - length + 1)
        for start in range(count):
            shingle = space.join(parts[start : start + length])
            yield (shingle.lower() if self._has_words else shingle).encode()
        self._is_cut = self._is_cut or count > 0
        self._words = parts[count:] if count else parts


class Sketch:
    """The MinHash of a document whose texts come one after the other."""

    def __init__(self, minhash: Any):
        self._minhash, self._cutter = minhash, ShingleCutter()

    def add(self, text: str) -> None:
        """Take a text of the document."""
        if shingles := list(self._cutter.add(text)):
            self._minhash.update_batch(shingles)

    @cached_property
    def minhash(self) -> Any:
        """The MinHash of the whole document, to which nothing can be added then."""
        if shingles := list(self._cutter.finish()):
            self._minhash.update_batch(shingles)
        return self._minhash


class NearDuplicates:
    """Documents by their MinHashes; each is compared with those before it.

    similarity: the share of shingles in common, of those in either, from which on two documents are
    alike. It is estimated from 128 hashes, with a standard error of at most 0.044. Memory grows by
    some 4 kB a document. Raises HermesError where datasketch is not installed.
    """

    def __init__(self, similarity: float):
        if not 0.1 <= similarity < 1:
            raise DataError(f"--near-duplicates must be from 0.1 to below 1, got {similarity:g}")
        try:
            from datasketch import MinHash, MinHashLSH
        except ModuleNotFoundError:
            raise HermesError(
                "--near-duplicates needs datasketch; pip install 'hermes-llm[dedup]'"
            ) from None
        self._similarity = similarity
        self._first: Any = MinHash(num_perm=HASHES)
        self._index: Any = MinHashLSH(threshold=similarity, num_perm=HASHES)
        self._hashes: dict[str, Any] = {}

    def start_sketch(self) -> Sketch:
        """Start on a document."""
        return Sketch(self._first.copy())

    def find_alike(
        self, sketch: Sketch, place: str, *, keep: bool = True
    ) -> tuple[str, float] | None:
        """Find the most similar earlier document and how similar it is.

        None where none is alike; then `keep` keeps this one for later ones.
        """
        own = sketch.minhash
        best: tuple[str, float] | None = None
        for other in self._index.query(own):
            similarity = float(own.jaccard(self._hashes[other]))
            if similarity >= self._similarity and (best is None or similarity > best[1]):
                best = other, similarity
        # Of a group of like documents one is enough to find the others.
        if keep and best is None and place not in self._hashes:
            self._index.insert(place, own)
            self._hashes[place] = own
        return best

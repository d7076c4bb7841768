"""Finds documents that share most of their text, by MinHash (datasketch, the extra `dedup`).

Source: Broder 1997, "On the resemblance and containment of documents"; Lee et al. 2022,
"Deduplicating training data makes language models better", arXiv:2107.06499.
"""

from collections.abc import Iterator
from typing import Any

from hermes.errors import DataError, HermesError

__all__ = ["NearDuplicates", "cut_shingles"]

WORDS = 5  # of a shingle
CHARACTERS = 8  # of a shingle where spaces do not divide words
LONGEST_WORD = 20  # on average, above which spaces do not
HASHES = 128


def cut_shingles(text: str) -> Iterator[bytes]:
    """Yield every five words in a row; of text without spaces every eight characters."""
    words = text.split()
    if len(text) > LONGEST_WORD * len(words):
        joined = "".join(words)
        for start in range(max(1, len(joined) - CHARACTERS + 1)):
            yield joined[start : start + CHARACTERS].encode()
        return
    for start in range(max(1, len(words) - WORDS + 1)):
        yield " ".join(words[start : start + WORDS]).lower().encode()


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

    def find_alike(self, text: str, place: str, *, keep: bool = True) -> tuple[str, float] | None:
        """Find the most similar earlier document and how similar it is.

        None where none is alike; then `keep` keeps this one for later ones.
        """
        own = self._first.copy()
        own.update_batch(list(cut_shingles(text)))
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

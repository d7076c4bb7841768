"""The documents of prepared tokens, found by their numbers through the shards' indexes."""

from bisect import bisect_right
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.data.document_index import DocumentIndex, IndexPart, IndexSource, open_index_rows
from hermes.data.document_reader import is_line_exact
from hermes.data.prepared.manifest import open_prepared, read_manifest
from hermes.errors import DataError

__all__ = ["PreparedDocument", "PreparedDocuments", "open_index"]


@dataclass(frozen=True)
class PreparedDocument:
    """A document: its source and line, its shard, its first token in the stream, its tokens."""

    where: str
    shard: str
    start: int
    tokens: NDArray[np.unsignedinteger]


class PreparedDocuments:
    """The documents of a folder of prepared tokens. Raises DataError, StorageError."""

    def __init__(self, folder: Path):
        self._stream = open_prepared(folder)  # raises where a file is missing or cut short
        self.folder = folder
        self.facts, self.shards = read_manifest(folder)
        self.index = open_index(folder)
        self._first = [0, *accumulate(shard.documents for shard in self.shards)]

    def __len__(self) -> int:
        return len(self.index)

    def read(self, number: int) -> PreparedDocument:
        """Read a document by its number, from 0. Raises DataError."""
        if not 0 <= number < len(self):
            raise DataError(
                f"{self.folder} has documents 0 to {len(self) - 1:,}; there is no {number:,}"
            )
        found = self.index.read(number)
        shard = self.shards[bisect_right(self._first, number) - 1].name
        return PreparedDocument(
            found.where, shard, found.start, self._stream.read(found.start, found.stop)
        )


def open_index(folder: Path) -> DocumentIndex:
    """Open the index of a folder of prepared tokens. Raises DataError, StorageError."""
    facts, shards = read_manifest(folder)
    parts = [
        IndexPart(
            partial(open_index_rows, folder / shard.files[1], shard.documents),
            shard.documents,
            shard.tokens,
        )
        for shard in shards
    ]
    return DocumentIndex(parts, [_describe(one, facts["options"]) for one in facts["plan"]])


def _describe(source: dict[str, Any], options: dict[str, Any]) -> IndexSource:
    return IndexSource(source["name"], is_line_exact(source["kind"], options["documents"]))

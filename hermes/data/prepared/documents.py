"""The documents of prepared tokens, found by their numbers through the shards' indexes."""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hermes.data.prepared.manifest import (
    list_token_files,
    open_prepared,
    read_index,
    read_manifest,
)
from hermes.data.token_shards import TokenShards
from hermes.errors import DataError

__all__ = ["PreparedDocument", "PreparedDocuments"]


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
        open_prepared(folder)  # every file is there
        self.folder = folder
        self.facts, self.shards = read_manifest(folder)
        self._first = [0, *accumulate(shard.documents for shard in self.shards)]
        self._token = [0, *accumulate(shard.tokens for shard in self.shards)]
        self._tokens = TokenShards(list_token_files(folder, self.facts["dtype"], self.shards))

    def __len__(self) -> int:
        return self._first[-1]

    def read(self, number: int) -> PreparedDocument:
        """Read a document by its number, from 0. Raises DataError."""
        if not 0 <= number < len(self):
            raise DataError(
                f"{self.folder} has documents 0 to {len(self) - 1:,}; there is no {number:,}"
            )
        start, row, shard = self._find(number)
        stop = len(self._tokens) if number + 1 == len(self) else self._find(number + 1)[0]
        source = self.facts["sources"][int(row["source"])]["name"]
        where = f"{source}:{int(row['line'])}"
        return PreparedDocument(where, shard, start, self._tokens[start:stop])

    def _find(self, number: int) -> tuple[int, Any, str]:
        """The first token of a document, its entry in the index, and its shard's name."""
        at = bisect_right(self._first, number) - 1
        row = read_index(self.folder, self.shards[at])[number - self._first[at]]
        return self._token[at] + int(row["start"]), row, self.shards[at].name

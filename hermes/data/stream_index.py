"""Opens the index of a stream's documents, or makes one of token files, which have none."""

import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from hermes.data.document_index import (
    INDEX,
    DocumentIndex,
    IndexPart,
    IndexSource,
    open_index_rows,
)
from hermes.data.prepared.documents import open_index
from hermes.data.prepared_folder import is_prepared
from hermes.data.token_shards import TokenShards, iterate_blocks
from hermes.data.token_stream import DOCUMENTS, TokenStream, read_stream_sources
from hermes.errors import StorageError, explain_os_error
from hermes.storage.temporary import find_temporary_folder

__all__ = ["open_stream_index", "scan_documents"]

BLOCK = 1 << 20  # tokens looked through at a time


def open_stream_index(stream: TokenStream, eos_id: int | None) -> DocumentIndex:
    """Open the index of a stream's documents; of token files they are found by `eos_id`.

    Raises DataError, StorageError.
    """
    if stream.folder is not None and is_prepared(stream.folder):
        return open_index(stream.folder)
    if stream.folder is not None:
        open_rows = partial(open_index_rows, stream.folder / DOCUMENTS, stream.documents)
        sources = [IndexSource(name) for name in read_stream_sources(stream.folder)]
        return DocumentIndex([IndexPart(open_rows, stream.documents, len(stream))], sources)
    if isinstance(stream.tokens, TokenShards):
        files = [(str(file.path), iterate_blocks(file)) for file in stream.tokens.files]
        return scan_documents(files, eos_id)
    return scan_documents([("the data", _iterate_tokens(stream))], eos_id)


def _iterate_tokens(stream: TokenStream) -> Iterator[NDArray[np.unsignedinteger]]:
    for start in range(0, len(stream), BLOCK):
        yield np.asarray(stream.tokens[start : min(start + BLOCK, len(stream))])


def scan_documents(
    files: Iterable[tuple[str, Iterable[NDArray[np.unsignedinteger]]]], eos_id: int | None
) -> DocumentIndex:
    """Index the documents of token files, which end with `eos_id`; lines are their numbers.

    files: each one's name and its tokens in blocks. A document that goes on in the next file is
    where it begins. The index is in a temporary file without a name, not in memory. Raises
    StorageError.
    """
    counts, sources = list[tuple[int, int]](), list[IndexSource]()
    goes_on, folder = False, find_temporary_folder()
    try:
        with tempfile.TemporaryFile(prefix="hermes-index-", dir=folder) as target:
            for number, (name, blocks) in enumerate(files):
                documents, tokens, goes_on = _scan_file(number, blocks, eos_id, goes_on, target)
                counts.append((documents, tokens))
                sources.append(IndexSource(name, exact=True))
            target.flush()
            rows: NDArray[Any] = np.empty(0, INDEX)
            if any(documents for documents, _ in counts):
                rows = np.asarray(np.memmap(target, INDEX, "r"))
    except OSError as error:
        raise StorageError(
            f"cannot write an index of documents to {folder}: {explain_os_error(error)}"
        ) from error
    parts, first = [], 0
    for documents, tokens in counts:
        parts.append(IndexPart(partial(_slice_rows, rows, first, documents), documents, tokens))
        first += documents
    return DocumentIndex(parts, sources)


def _slice_rows(rows: NDArray[Any], first: int, count: int) -> NDArray[Any]:
    return rows[first : first + count]


def _scan_file(
    number: int,
    blocks: Iterable[NDArray[np.unsignedinteger]],
    eos_id: int | None,
    goes_on: bool,
    target: IO[bytes],
) -> tuple[int, int, bool]:
    """Write the index of a file. -> its documents and tokens, and whether one goes on behind it

    goes_on: whether the file begins inside a document.
    """
    tokens = documents = 0
    for block in blocks:
        # A document begins at a token that is the first, or that follows an end.
        begins = np.empty(len(block), np.bool_)
        begins[:1] = not goes_on
        begins[1:] = block[:-1] == eos_id
        starts = np.flatnonzero(begins)
        rows = np.empty(len(starts), INDEX)
        rows["start"], rows["source"] = starts + tokens, number
        rows["line"] = np.arange(len(starts)) + documents + 1
        target.write(rows.tobytes())
        tokens, documents = tokens + len(block), documents + len(starts)
        goes_on = int(block[-1]) != eos_id
    return documents, tokens, goes_on

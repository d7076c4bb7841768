"""A tokenized corpus: one sequence of token ids in memory or in files."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hermes.data.document_index import INDEX
from hermes.data.document_reader import Document
from hermes.data.encoding_pool import choose_batch_size
from hermes.data.progress import PreparationProgress, Watch, report_progress
from hermes.data.token_shards import TokenShards, TokenSlice
from hermes.errors import DataError, StorageError, explain_os_error
from hermes.formatting import format_count
from hermes.stages import report_stage
from hermes.storage.plain_json import load_json
from hermes.storage.temporary import TemporaryFolder

if TYPE_CHECKING:
    from hermes.tokenizer import Tokenizer

__all__ = ["DOCUMENTS", "TokenStream", "join_pieces", "read_stream_sources", "tokenize"]

NO_END = (
    "the tokenizer has no token that ends a text, such as '<|eos|>' or '</s>', so documents cannot "
    "be told apart; name one of its tokens with --eos"
)
TOKENS, FACTS, DOCUMENTS = "tokens.bin", "tokens.json", "documents.idx"


@dataclass(frozen=True)
class TokenStream:
    """The tokens of all documents in order, with an end-of-text token after each. tokens: (N,)

    Each begins with BOS where the tokenizer says so.

    text_bytes: of the text in UTF-8. largest: the largest id. fingerprint: SHA-256 over the
    tokenizer's fingerprint and the ids; equal fingerprints mean equal data. folder: where other
    processes can `open` the stream, and where the index of its documents is; a temporary folder is
    deleted by `close`, or with the object. sources: how many files it was read from, 0 if unknown.
    notes: sentences for the user.
    """

    tokens: "NDArray[np.unsignedinteger] | TokenShards | TokenSlice"
    documents: int
    text_bytes: int
    largest: int
    fingerprint: str
    folder: Path | None = None
    sources: int = 0
    notes: tuple[str, ...] = ()
    _temporary: TemporaryFolder | None = field(default=None, repr=False, compare=False)

    @classmethod
    def from_ids(
        cls, ids: Iterable[int], *, documents: int = 1, text_bytes: int = 0
    ) -> "TokenStream":
        """Make a stream in memory. Raises DataError where there are no ids."""
        tokens = np.fromiter(ids, "<u4")
        if not len(tokens):
            raise DataError("there are no tokens; give text that has some")
        digest = hashlib.sha256(tokens.tobytes()).hexdigest()
        return cls(tokens, documents, text_bytes, int(tokens.max()), digest)

    @classmethod
    def open(cls, folder: str | Path) -> "TokenStream":
        """Open the stream that another process wrote. Raises DataError, StorageError."""
        where = Path(folder)
        try:
            facts = load_json((where / FACTS).read_text(encoding="utf-8"))
            tokens = np.memmap(where / TOKENS, facts["dtype"], "r")
        except OSError as error:
            raise StorageError(
                f"cannot read tokens in {where}: {explain_os_error(error)}"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(
                f"{where}: not a folder of tokens ({error}); tokenize the text again"
            ) from None
        if len(tokens) != facts["tokens"]:
            raise DataError(
                f"{where}: {format_count(len(tokens), 'tokens')} where {facts['tokens']:,} were "
                "written; tokenize the text again"
            )
        counts = (facts["documents"], facts["text_bytes"], facts["largest"])
        return cls(tokens, *counts, facts["fingerprint"], where)

    def close(self) -> None:
        """Delete the files, if they are temporary; the stream must not be used afterwards."""
        if self._temporary is not None:
            self._temporary.delete()

    def __enter__(self) -> "TokenStream":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.tokens)

    def read(self, start: int, stop: int) -> "NDArray[np.unsignedinteger]":
        """Read tokens start to stop - 1. Raises DataError where one of them is damaged."""
        ids = self.tokens[start:stop]
        self.check_ids(ids)
        return ids

    def check_ids(self, ids: "NDArray[np.integer]") -> None:
        """Raise DataError where ids that were read are beyond the largest that was written.

        Backends index the embedding by ids without looking: torch raises an error of its own, MLX
        reads other memory.
        """
        if ids.size and int(ids.max()) > self.largest:
            raise DataError(
                f"{self.folder or 'the data'}: token id {int(ids.max()):,} was read where "
                f"{self.largest:,} is the largest that was written, so a file of tokens is damaged "
                "or was changed; copy or prepare it again (hermes data verify names the files of a "
                "prepared folder)"
            )


def tokenize(
    documents: Iterable[Document],
    tokenizer: "Tokenizer",
    *,
    directory: str | Path | None = None,
    watch: Watch = report_progress,
    size: int = 0,
    count_read: Callable[[], int] | None = None,
) -> TokenStream:
    """Encode documents into a temporary file, 2 bytes per token (4 with more than 65,536 ids).

    Names of special tokens in the text are encoded as text. The pieces of a long document are
    encoded separately; `hermes.tokenizer.bytelevel.split_text` cuts them where that does not change
    tokens, and those that a tokenizer cannot be cut between are joined again. directory: where the
    file is put; None for the system's temporary folder. watch: told how far it is. size: bytes of
    the sources, 0 if unknown; count_read: how many of them the documents so far are from, the bytes
    of the text if None. Holds some megabytes of text in memory, and a document that cannot be cut
    as a whole. Raises DataError, StorageError.
    """
    temporary = TemporaryFolder("tokens", directory)
    folder = Path(temporary.name)
    try:
        with open(folder / TOKENS, "wb") as file, open(folder / DOCUMENTS, "wb") as index:
            facts = _write(documents, tokenizer, file, index, watch, size, count_read)
        (folder / FACTS).write_text(json.dumps(facts), encoding="utf-8")
        stream = TokenStream.open(folder)
    except BaseException as error:
        temporary.delete()
        if isinstance(error, OSError):
            raise StorageError(
                f"cannot write tokens to {folder}: {explain_os_error(error)}"
            ) from error
        raise
    return replace(stream, _temporary=temporary)


def _write(
    documents: Iterable[Document],
    tokenizer: "Tokenizer",
    file: BinaryIO,
    index: BinaryIO,
    watch: Watch = report_progress,
    size: int = 0,
    count_read: Callable[[], int] | None = None,
) -> dict[str, Any]:
    dtype = "<u2" if tokenizer.vocab_size <= 1 << 16 else "<u4"
    digest = hashlib.sha256(tokenizer.fingerprint.encode())
    tokens = num_documents = text_bytes = largest = 0
    progress = PreparationProgress(size)
    end = [] if tokenizer.eos_id is None else [tokenizer.eos_id]
    continued = False  # whether the next piece continues a document
    sources: list[str] = []
    for batch in _group_documents(join_pieces(documents, tokenizer)):
        flags = [continued, *(document.more for document in batch)]
        continued = flags.pop()
        encoded = tokenizer.encode_batch([one.text for one in batch], continued=flags)
        rows, at = [], tokens
        for document, flag, ids in zip(batch, flags, encoded, strict=True):
            if not flag:
                if num_documents and not end:
                    raise DataError(NO_END)
                if document.path not in sources[-1:]:
                    sources.append(document.path)
                rows.append((at, document.line, len(sources) - 1))
                ids[:0] = tokenizer.beginning
            if not document.more:
                ids += end
                num_documents += 1
            text_bytes += len(document.text.encode())
            at += len(ids)
        index.write(np.array(rows, INDEX).tobytes())
        ids_of_batch = np.fromiter(chain.from_iterable(encoded), dtype)
        tokens += len(ids_of_batch)
        largest = max(largest, int(ids_of_batch.max(initial=0)))
        digest.update(ids_of_batch.tobytes())
        file.write(ids_of_batch.tobytes())
        progress.read = count_read() if count_read is not None else text_bytes
        progress.documents, progress.tokens = num_documents, tokens
        watch(progress)
    report_stage("")
    if not tokens:
        raise DataError("there is no text to tokenize; give files that have some")
    return {
        "dtype": dtype,
        "tokens": tokens,
        "documents": num_documents,
        "text_bytes": text_bytes,
        "largest": largest,
        "fingerprint": digest.hexdigest(),
        "sources": sources,
    }


def read_stream_sources(folder: Path) -> list[str]:
    """The names of the sources of a stream that `tokenize` made, by their numbers in its index."""
    found: list[str] = load_json((folder / FACTS).read_text(encoding="utf-8"))["sources"]
    return found


def join_pieces(documents: Iterable[Document], tokenizer: "Tokenizer") -> Iterator[Document]:
    """Join the pieces of a document that the tokenizer cannot be cut between."""
    held: list[Document] = []
    for document in documents:
        if held and not (held[-1].more and _is_joined(held[-1], document, tokenizer)):
            yield _merge(held)
            held = []
        held.append(document)
    if held:
        yield _merge(held)


def _is_joined(left: Document, right: Document, tokenizer: "Tokenizer") -> bool:
    return not tokenizer.can_cut(left.text, right.text)


def _merge(pieces: list[Document]) -> Document:
    if len(pieces) == 1:
        return pieces[0]
    text = "".join(piece.text for piece in pieces)
    return replace(pieces[0], text=text, more=pieces[-1].more)


def _group_documents(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size, most = 0, choose_batch_size()
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= most:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

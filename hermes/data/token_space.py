"""Whether the tokens of text will fit where they are written, found out before it is tokenized."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from hermes.data.document_reader import Document
from hermes.data.source_file import SourceFile
from hermes.errors import DataError, StorageError
from hermes.formatting import format_with_unit
from hermes.storage.space import count_free_bytes

if TYPE_CHECKING:
    from hermes.tokenizer import Tokenizer

__all__ = ["check_token_space", "estimate_token_bytes"]

SAMPLE = 1 << 16  # characters of text whose tokens are counted
WIDEST = 4  # bytes of an id; a token has a byte of text at least
WHOLE = ("txt",)  # formats of which every byte is text


def check_token_space(
    folder: Path,
    sources: Sequence[SourceFile],
    documents: Iterable[Document],
    tokenizer: "Tokenizer",
    force: bool = False,
) -> list[str]:
    """Compare the space that the sources' tokens need with what is free. -> sentences for the user

    folder: where they are written, or the nearest above it that exists. documents: those of the
    sources, of which the first are read. Raises StorageError where they do not fit, unless it is
    forced; of records, whose text is less than the file, it only says so.
    """
    folder = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    free, size = count_free_bytes(folder), sum(source.size for source in sources)
    if free is None or free >= WIDEST * size:
        return []
    needed = estimate_token_bytes(size, documents, tokenizer)
    if free >= needed:
        return []
    found = (
        f"the tokens of {format_with_unit(size, 'B')} of text need about "
        f"{format_with_unit(needed, 'B')}, and {folder} has {format_with_unit(free, 'B')} free"
    )
    if force or any(source.kind not in WHOLE for source in sources):
        return [found]
    raise StorageError(
        f"{found}; make room, choose another --cache-dir, or another TMPDIR, where a little text "
        "is tokenized"
    )


def estimate_token_bytes(size: int, documents: Iterable[Document], tokenizer: "Tokenizer") -> int:
    """Estimate the bytes of the tokens of `size` bytes of text from its beginning."""
    width = 2 if tokenizer.vocab_size <= 1 << 16 else 4
    tokens = read = 0
    try:
        for document in documents:
            text = document.text[: SAMPLE - read]
            tokens += len(tokenizer.encode_batch([text])[0]) + 1
            read += max(len(text.encode()), 1)
            if read >= SAMPLE:
                break
    except DataError:  # which reading it for good will say
        pass
    return size * width * tokens // max(read, 1)

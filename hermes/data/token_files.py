"""Token files of other tools: ids in little-endian binary, with or without a header.

nanoGPT's and litgpt's train.bin are bare ids. llm.c, modded-nanogpt and nanochat put 256 int32
before them: a magic number, a version that says their width, and their count. litgpt's packed
datasets have a header of 24 bytes. Sources: karpathy/llm.c, dev/data/data_common.py; litgpt,
data/packed_dataset.py.
"""

import hashlib
import os
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from hermes.data.token_shards import TokenFile, TokenShards, iterate_blocks
from hermes.data.token_stream import TokenStream
from hermes.errors import DataError, StorageError, explain_os_error
from hermes.formatting import format_count

if TYPE_CHECKING:
    from hermes.tokenizer import Tokenizer

__all__ = ["is_token_file", "open_token_files", "read_token_header"]

ENDING = ".bin"
# By llm.c's magic number: the width that each version has.
LLMC = {20240520: {1: "<u2"}, 20240801: {7: "<u4"}}
LLMC_HEADER = 256 * 4
LEAST_IDS = 64  # by which their width is judged
LITGPT_MAGIC, LITGPT_HEADER = b"LITPKDS", 24
# uint16, and int32 read as unsigned, since ids are never negative.
LITGPT_TYPES = {8: "<u2", 4: "<u4"}


def is_token_file(path: Path) -> bool:
    """Whether a file is of tokens, by its ending."""
    return path.suffix.lower() == ENDING


def read_token_header(path: Path, bare: str) -> TokenFile:
    """Find out where a file's ids are and how wide. bare: the width without a header.

    Raises DataError where the header and the size disagree, StorageError.
    """
    try:
        size = os.stat(path).st_size
        with open(path, "rb") as file:
            head = file.read(LITGPT_HEADER)
    except OSError as error:
        raise StorageError(f"cannot read {path}: {explain_os_error(error)}") from error
    if head.startswith(LITGPT_MAGIC) and len(head) == LITGPT_HEADER:
        _, kind, _ = struct.unpack("<QBQ", head[len(LITGPT_MAGIC) :])
        if kind not in LITGPT_TYPES:
            raise DataError(f"{path}: litgpt's type {kind} holds no ids; expected uint16 or int32")
        return _measure(path, LITGPT_TYPES[kind], LITGPT_HEADER, size)
    words = struct.unpack("<3i", head[:12].ljust(12, b"\0"))
    if words[0] in LLMC and size >= LLMC_HEADER:
        versions = LLMC[words[0]]
        if words[1] not in versions:
            known = ", ".join(map(str, versions))
            raise DataError(f"{path}: version {words[1]} of a token file; known is {known}")
        found = _measure(path, versions[words[1]], LLMC_HEADER, size)
        if found.tokens < words[2]:
            raise DataError(
                f"{path}: {format_count(found.tokens, 'tokens')} where its header says "
                f"{words[2]:,}; copy it again"
            )
        return TokenFile(path, found.dtype, words[2], LLMC_HEADER)
    return _measure(path, bare, 0, size)


def _measure(path: Path, dtype: str, offset: int, size: int) -> TokenFile:
    tokens, rest = divmod(size - offset, np.dtype(dtype).itemsize)
    if rest:
        count = format_count(size, "bytes are", "byte is")
        raise DataError(f"{path}: {count} no whole number of ids; copy it again")
    if not tokens:
        raise DataError(f"{path}: empty, there is no token in it; leave it out or fill it")
    return TokenFile(path, dtype, tokens, offset)


def _require_width(file: TokenFile, first: NDArray[Any], vocab_size: int) -> None:
    """Refuse bare ids that were written wider than they are read: every second one is 0 then.

    first: the file's first ids. Raises DataError.
    """
    if len(first) < LEAST_IDS or first[1::2].any() or not first[::2].any():
        return
    width = first.dtype.itemsize
    found = 2 * width if first[2::4].any() else 4 * width
    raise DataError(
        f"{file.path}: every second id is 0, so its ids seem to have {found} bytes, and with a "
        f"vocabulary of {vocab_size:,} they are read with {width}; write them as "
        f"uint{8 * width}"
    )


def open_token_files(paths: Sequence[Path], tokenizer: "Tokenizer") -> TokenStream:
    """Open token files as one stream; bare ids have 2 bytes, 4 where they need them.

    They are read once, for the fingerprint and the largest id. Raises DataError for ids outside the
    tokenizer's vocabulary, StorageError.
    """
    size = tokenizer.vocab_size
    bare = "<u2" if size <= 1 << 16 else "<u4"
    files = [read_token_header(path, bare) for path in paths]
    tokens = TokenShards(files)
    digest = hashlib.sha256(tokenizer.fingerprint.encode())
    largest = documents = 0
    for file in files:
        for number, one in enumerate(iterate_blocks(file)):
            if not number and not file.offset:
                _require_width(file, one, size)
            block = one.astype(bare)
            digest.update(block.tobytes())
            found, worst = int(block.max()), int(one.max())
            if worst >= size or worst != found:
                raise DataError(
                    f"{file.path}: token id {worst}, outside the tokenizer's vocabulary of "
                    f"{size:,}; give the tokenizer that made the file"
                )
            largest = max(largest, found)
            documents += int((block == tokenizer.eos_id).sum())
    return TokenStream(tokens, documents, 0, largest, digest.hexdigest(), sources=len(files))

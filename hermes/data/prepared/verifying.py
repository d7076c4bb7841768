"""Verifies prepared tokens: every file against the manifest, every damaged one by its name."""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hermes.data.prepared.manifest import (
    MANIFEST,
    Shard,
    list_sizes,
    list_token_files,
    open_prepared,
    read_manifest,
    require_size,
)
from hermes.data.token_shards import TokenFile, open_tokens
from hermes.data.token_stream import TokenStream
from hermes.errors import DataError
from hermes.storage.reading import hash_file
from hermes.tokenizer import Tokenizer

__all__ = ["TOKENIZER", "verify_prepared"]

TOKENIZER = "tokenizer.json"
BLOCK = 1 << 22  # ids read at a time
LISTED = 20  # damaged files that are named


def verify_prepared(
    folder: str | Path, watch: Callable[[int, int], None] = lambda done, total: None
) -> TokenStream:
    """Compare every byte of prepared tokens with the manifest's hashes, and open them.

    watch: told how many of all tokens are done. Raises DataError, which names every file that is
    missing, of another size or of other bytes, and StorageError.
    """
    where = Path(folder)
    facts, shards = read_manifest(where)
    _require_sums(where, facts, shards)
    damaged = list[str]()
    total, done = hashlib.sha256(facts["tokenizer"]["fingerprint"].encode()), 0
    files = {one.path: one for one in list_token_files(where, facts["dtype"], shards)}
    size = sum(shard.tokens for shard in shards)
    for shard in shards:
        file = files.get(where / shard.files[0])

        def tell(count: int, before: int = done) -> None:
            watch(before + count, size)

        damaged += _check_shard(where, shard, facts["dtype"], file, total, tell)
        done += shard.tokens
    watch(size, size)
    damaged += _check_tokenizer(where, facts)
    if not damaged and total.hexdigest() != facts["fingerprint"]:
        damaged.append(
            f"{where}: the shards have fingerprint {total.hexdigest()[:12]} and the manifest says "
            f"{facts['fingerprint'][:12]}; prepare the text again"
        )
    _refuse(where, damaged)
    return open_prepared(where)


def _check_shard(
    folder: Path,
    shard: Shard,
    dtype: str,
    file: TokenFile | None,
    total: Any,
    watch: Callable[[int], None],
) -> list[str]:
    """What is wrong with the files of a shard. file: of its tokens, None where it has none."""
    damaged = list[str]()
    hashes: list[tuple[str, Callable[[], str]]] = [
        (shard.sha256, lambda: "" if file is None else _hash_tokens(file, total, watch)),
        (shard.index_sha256, lambda: hash_file(folder / shard.files[1])),
    ]
    for (path, size), (known, find) in zip(list_sizes(folder, shard, dtype), hashes, strict=True):
        try:
            require_size(path, size)
        except DataError as error:
            damaged.append(str(error))
            continue
        if size and (found := find()) != known:
            damaged.append(
                f"{path}: its SHA-256 is {found[:12]} and was {known[:12]} when it was written; "
                "copy or prepare it again"
            )
    return damaged


def _refuse(folder: Path, damaged: Sequence[str]) -> None:
    """Raise DataError for damage: a file's own sentence, or one that names them all."""
    if len(damaged) == 1:
        raise DataError(damaged[0])
    if damaged:
        # Each sentence begins with the file's path, and ends with what to do.
        each = [one.removeprefix(f"{folder}/").partition(";")[0] for one in damaged]
        more = f" and {len(each) - LISTED:,} more" if len(each) > LISTED else ""
        named = " | ".join(each[:LISTED])
        raise DataError(
            f"{folder}: {len(each):,} files are damaged; copy or prepare them again: {named}{more}"
        )


def _require_sums(folder: Path, facts: dict[str, Any], shards: Sequence[Shard]) -> None:
    """Raise DataError where the manifest's counts are not those of its shards."""
    for name in ("tokens", "documents", "text_bytes"):
        found = sum(getattr(shard, name) for shard in shards)
        if facts[name] != found:
            raise DataError(
                f"{folder / MANIFEST}: it says {facts[name]:,} {name}, and its shards {found:,}; "
                "copy or prepare it again"
            )


def _hash_tokens(file: TokenFile, total: Any, watch: Callable[[int], None]) -> str:
    """The SHA-256 of a shard's tokens, which are counted into `total` too."""
    own, tokens = hashlib.sha256(), open_tokens(file)
    for start in range(0, len(tokens), BLOCK):
        block = tokens[start : start + BLOCK].tobytes()
        own.update(block)
        total.update(block)
        watch(start)
    return own.hexdigest()


def _check_tokenizer(folder: Path, facts: dict[str, Any]) -> list[str]:
    """What is wrong with the tokenizer in the folder."""
    path, known = folder / TOKENIZER, facts["tokenizer"]["fingerprint"]
    try:
        found = Tokenizer.load(path).fingerprint
    except DataError as error:
        return [f"{path}: the tokenizer cannot be read ({error}); copy or prepare it again"]
    if found == known:
        return []
    return [
        f"{path}: it has fingerprint {found[:12]}, and the tokens were made with {known[:12]}; "
        "copy or prepare it again"
    ]

"""manifest.json: what a folder of prepared tokens holds, and how it is opened and verified."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hermes.data.document_index import INDEX
from hermes.data.prepared.facts import require_facts, require_shard
from hermes.data.prepared_folder import FORMAT, MANIFEST, is_prepared
from hermes.data.token_shards import TokenFile, TokenShards, iterate_blocks
from hermes.data.token_stream import TokenStream
from hermes.errors import CheckpointError, DataError, StorageError, explain_os_error
from hermes.storage.path_kinds import CHECKPOINT, describe_kind
from hermes.storage.plain_json import load_json
from hermes.storage.typed_json import build_typed

__all__ = [
    "MANIFEST",
    "Shard",
    "hash_shards",
    "is_prepared",
    "list_sizes",
    "list_token_files",
    "make_manifest",
    "open_prepared",
    "read_manifest",
    "require_size",
    "require_whole",
]

VERSION = 1


@dataclass(frozen=True)
class Shard:
    """A shard's counts and hashes. documents: that begin in it; text_sha256: of its text.

    Raises ValueError for what no preparation writes.
    """

    name: str
    tokens: int
    documents: int
    text_bytes: int
    largest: int
    sha256: str
    index_sha256: str
    text_sha256: str

    def __post_init__(self) -> None:
        require_shard(vars(self))

    @property
    def files(self) -> tuple[str, str]:
        """The names of its tokens and of its index."""
        return f"{self.name}.bin", f"{self.name}.idx"


def make_manifest(facts: dict[str, Any], shards: Sequence[Shard]) -> bytes:
    """The text of manifest.json."""
    own = {"format": FORMAT, "version": VERSION, **facts}
    own["shards"] = [asdict(shard) for shard in shards]
    return (json.dumps(own, indent=1) + "\n").encode()


def read_manifest(folder: Path) -> tuple[dict[str, Any], tuple[Shard, ...]]:
    """The facts and the shards of a folder. Raises DataError, StorageError."""
    try:
        facts = load_json((folder / MANIFEST).read_bytes())
        if describe_kind(folder) == CHECKPOINT:
            raise FileNotFoundError
        if not isinstance(facts, dict):
            raise ValueError("it is no object")
        if facts.get("format") != FORMAT or facts.get("version") != VERSION:
            found = facts.get("format"), facts.get("version")
            raise ValueError(f"its format is {found[0]!r}, version {found[1]!r}")
        require_facts(facts)
        return facts, tuple(build_typed(Shard, shard, "a shard") for shard in facts["shards"])
    except (FileNotFoundError, NotADirectoryError):
        missing = f": no {MANIFEST} in it" if folder.is_dir() else ": no such folder"
        if kind := describe_kind(folder):
            missing = f" is {kind}"
        raise DataError(f"{folder}{missing}; name a folder that hermes prepare wrote") from None
    except OSError as error:
        raise StorageError(f"cannot read {folder / MANIFEST}: {explain_os_error(error)}") from error
    except (ValueError, CheckpointError) as error:
        raise DataError(
            f"{folder / MANIFEST}: not the manifest of prepared tokens ({error}); prepare the "
            "text again"
        ) from None


def list_token_files(folder: Path, dtype: str, shards: Sequence[Shard]) -> list[TokenFile]:
    """The files of the shards that have tokens."""
    return [
        TokenFile(folder / shard.files[0], dtype, shard.tokens) for shard in shards if shard.tokens
    ]


def open_prepared(folder: Path) -> TokenStream:
    """Open prepared tokens. Raises DataError where a shard is missing or too short.

    What is in the shards is not read; `verify_prepared` does.
    """
    facts, shards = read_manifest(folder)
    for shard in shards:
        require_whole(folder, shard, facts["dtype"])
    return TokenStream(
        TokenShards(list_token_files(folder, facts["dtype"], shards)),
        facts["documents"],
        facts["text_bytes"],
        facts["largest"],
        facts["fingerprint"],
        folder,
        sources=len(facts["sources"]),
    )


def require_whole(folder: Path, shard: Shard, dtype: str) -> None:
    """Raise DataError where a file of a shard is missing or of another size, StorageError."""
    for path, size in list_sizes(folder, shard, dtype):
        require_size(path, size)


def list_sizes(folder: Path, shard: Shard, dtype: str) -> list[tuple[Path, int]]:
    """List the files of a shard and how many bytes each has: its tokens, and its index."""
    tokens, index = (folder / name for name in shard.files)
    return [
        (tokens, shard.tokens * np.dtype(dtype).itemsize),
        (index, shard.documents * INDEX.itemsize),
    ]


def require_size(path: Path, size: int) -> None:
    """Raise DataError where a file of a shard is missing or of another size, StorageError."""
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        raise DataError(f"{path}: the shard is missing; copy or prepare it again") from None
    except OSError as error:
        raise StorageError(f"cannot look at {path}: {explain_os_error(error)}") from error
    if found != size:
        raise DataError(
            f"{path}: {found:,} bytes where the manifest says {size:,}; copy or prepare it again"
        )


def hash_shards(
    folder: Path,
    dtype: str,
    shards: Sequence[Shard],
    tokenizer_fingerprint: str,
    watch: Callable[[int, int], None] = lambda done, total: None,
) -> str:
    """The fingerprint of the tokens, as `TokenStream` has it; each shard's hash is compared.

    Raises DataError for the first shard that differs.
    """
    total = hashlib.sha256(tokenizer_fingerprint.encode())
    size = sum(shard.tokens for shard in shards)
    done = 0
    for file, shard in zip(
        list_token_files(folder, dtype, shards), (s for s in shards if s.tokens), strict=True
    ):
        own = hashlib.sha256()
        for block in iterate_blocks(file):
            data = block.tobytes()
            own.update(data)
            total.update(data)
            watch(done, size)
            done += len(block)
        if own.hexdigest() != shard.sha256:
            raise DataError(
                f"{file.path}: its SHA-256 is {own.hexdigest()[:12]} and was "
                f"{shard.sha256[:12]} when it was written; copy or prepare it again"
            )
    watch(size, size)
    return total.hexdigest()

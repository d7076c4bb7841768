"""Token files at addresses: copied once into the cache, since tokens are read anywhere."""

import hashlib
import json
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from hermes.data.prepared.cache import can_write_cache, wait_for_lock
from hermes.data.remote import open_filesystem, restore_address
from hermes.errors import StorageError
from hermes.stages import report_stage
from hermes.storage.durable import TEMPORARY, Disk, write_file

__all__ = ["fetch_token_file"]

BLOCK = 1 << 22  # bytes copied at a time
FILES = "files"  # folder of the cache
# By what kinds of addresses tell a changed file from its earlier self.
VERSIONS = ("etag", "ETag", "blob_id", "mtime", "LastModified", "last_modified", "updated")


def fetch_token_file(path: Path, cache: Path, tell: Callable[[str], None]) -> Path:
    """Copy a token file at an address into the cache, unless it is there. -> the copy

    One of another size or version than the copy is copied again. Raises DataError where there is no
    such file, StorageError, and HermesError where a library is missing.
    """
    _, address = restore_address(path)
    if not can_write_cache(cache):
        raise StorageError(
            f"{address}: token files are copied to {cache}, which cannot be written to or "
            "locked; name another folder with --cache-dir"
        )
    with open_filesystem(path) as (files, _):
        facts = files.info(address)
        size = facts.get("size")
        version = [str(facts[name]) for name in VERSIONS if facts.get(name) is not None]
        key = hashlib.sha256(json.dumps([address, size, version]).encode()).hexdigest()
        copy = cache / FILES / key[:32] / path.name
        if copy.exists():
            return copy
        with wait_for_lock(copy.parent, tell, f"copies {address}"):
            if not copy.exists():
                tell(f"{address} is copied to {copy.parent}")
                _copy(files, address, copy, size)
    return copy


def _copy(files: Any, address: str, copy: Path, size: int | None) -> None:
    """Copy a file, whole or not at all. Raises StorageError where it breaks off."""
    disk, beside = Disk(), copy.with_name(f"{TEMPORARY}{secrets.token_hex(4)}")
    try:
        with files.open(address, "rb") as file:
            written = write_file(beside, _read_blocks(file, copy.name, size), disk).size
        if size is not None and written != size:
            raise StorageError(
                f"cannot read {address}: it broke off after {written:,} of {size:,} bytes; start "
                "again"
            )
        disk.rename(beside, copy)
    finally:
        beside.unlink(missing_ok=True)
        report_stage("")


def _read_blocks(file: BinaryIO, name: str, size: int | None) -> Iterator[bytes]:
    done = 0
    while block := file.read(BLOCK):
        report_stage(f"copying {name}", done, size or 0)
        done += len(block)
        yield block

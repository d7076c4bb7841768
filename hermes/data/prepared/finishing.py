"""Ends a preparation: all shards are there, their hashes are right, the manifest is written."""

import json
import os
import platform
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from hermes.data.bad_records import LISTED, BadRecords
from hermes.data.files import describe_textless
from hermes.data.prepared.group import Group, read_group, read_shard
from hermes.data.prepared.manifest import (
    MANIFEST,
    Shard,
    hash_shards,
    make_manifest,
    read_manifest,
)
from hermes.data.prepared.plan import PLAN, Plan, name_shard
from hermes.data.progress import PreparationProgress, Watch
from hermes.errors import DataError
from hermes.formatting import format_count, format_with_unit
from hermes.storage.durable import TEMPORARY, Disk, write_atomically

if TYPE_CHECKING:
    from hermes.tokenizer import Tokenizer

__all__ = [
    "PrepareResult",
    "choose_dtype",
    "delete_unfinished",
    "describe_whole",
    "write_manifest",
]

PROVENANCE = "provenance.json"


@dataclass(frozen=True, repr=False)
class PrepareResult:
    """Text that was prepared. whole: False where other parts are still to be done.

    files: sources that were read, in all parts. notes: sentences for the user, such as those
    about bad records.
    """

    output: Path
    whole: bool
    shards: int
    tokens: int
    documents: int
    text_bytes: int
    files: int
    notes: tuple[str, ...] = ()

    def describe(self, part: str | None = None) -> str:
        """A line about it; part: the I/N that was asked for."""
        kind = "" if self.whole else f"part {part} of "
        files = f" from {format_count(self.files, 'files')}" if self.whole else ""
        return (
            f"{kind}{self.output}: {format_count(self.tokens, 'tokens')} of "
            f"{format_count(self.documents, 'documents')}, "
            f"{format_with_unit(self.text_bytes, 'B')} of text{files}, "
            f"in {format_count(self.shards, 'shards')}"
        )

    def __repr__(self) -> str:
        kind = "" if self.whole else "part of "
        return (
            f"PrepareResult({kind}{self.output}: {format_count(self.tokens, 'tokens')} of "
            f"{format_count(self.documents, 'documents')} in {format_count(self.shards, 'shards')})"
        )


def choose_dtype(plan: Plan) -> str:
    """The type of ids in shards, little-endian: two bytes where the vocabulary allows it."""
    return "<u2" if plan.tokenizer["vocab_size"] <= 1 << 16 else "<u4"


def _collect(folder: Path, plan: Plan) -> tuple[list[Group], list[Shard]]:
    """All groups and shards. Raises DataError where one is not finished."""
    groups, shards = [], []
    for number in range(len(plan.groups)):
        group = read_group(folder, number)
        if group is None:
            first = plan.sources[plan.groups[number].start].name
            raise DataError(
                f"{folder}: the part with {first} is not done yet; run the parts that are missing"
            )
        groups.append(group)
        for k in range(group.shards):
            shard = read_shard(folder, name_shard(number, k))
            if shard is None:
                raise DataError(
                    f"{folder}: shard {name_shard(number, k)} is not done yet; run the parts that "
                    "are missing"
                )
            shards.append(shard)
    return groups, shards


def write_manifest(
    folder: Path,
    plan: Plan,
    tokenizer: "Tokenizer",
    disk: Disk,
    workers: int | None,
    progress: PreparationProgress,
    watch: Watch,
) -> PrepareResult:
    """Write the manifest, once every shard is there and its hash is right."""
    groups, shards = _collect(folder, plan)
    notes = _judge_bad_records(plan, groups)
    tokens = sum(shard.tokens for shard in shards)
    if not tokens:
        raise DataError(describe_textless([source.name for source in plan.sources]))

    def show(done: int, total: int) -> None:
        watch(PreparationProgress(total, done, stage="verifying"))

    dtype = choose_dtype(plan)
    fingerprint = hash_shards(folder, dtype, shards, tokenizer.fingerprint, show)
    facts = {
        "fingerprint": fingerprint,
        "dtype": dtype,
        "tokens": tokens,
        "documents": sum(shard.documents for shard in shards),
        "text_bytes": sum(shard.text_bytes for shard in shards),
        "largest": max(shard.largest for shard in shards),
        "tokenizer": plan.tokenizer,
        "options": plan.options.describe(),
        "plan": [source.describe() for source in plan.sources],
        "sources": [vars(source) for group in groups for source in group.sources],
        "bad_records": sum(group.bad for group in groups),
    }
    provenance = _describe_provenance(progress, workers)
    write_atomically(folder / PROVENANCE, provenance, disk=disk, sync_name=False)
    write_atomically(folder / MANIFEST, make_manifest(facts, shards), disk=disk)
    delete_unfinished(folder)
    return describe_whole(folder, tuple(notes))


def _judge_bad_records(plan: Plan, groups: Sequence[Group]) -> list[str]:
    """Sentences about the records that were left out. Raises DataError for too many."""
    if plan.options.max_bad_records is None:
        return []
    bad = BadRecords(plan.options.max_bad_records)
    bad.good, bad.bad = sum(group.good for group in groups), sum(group.bad for group in groups)
    bad.first = [line for group in groups for line in group.first_bad][:LISTED]
    bad.check()
    return bad.describe()


def _describe_provenance(progress: PreparationProgress, workers: int | None) -> bytes:
    """When, how long and with what it was prepared; the only file that says so."""
    facts = {
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "seconds": round(time.monotonic() - progress.started, 1),
        "workers": workers or os.cpu_count(),
        "versions": {
            "hermes-llm": version("hermes-llm"),
            "tokenizers": version("tokenizers"),
            "python": platform.python_version(),
        },
    }
    return (json.dumps(facts, indent=1) + "\n").encode()


def delete_unfinished(folder: Path) -> None:
    """Delete what only an unfinished preparation needs; what remains is harmless."""
    patterns = ("[0-9]*-[0-9]*.json", "group-[0-9]*.json", PLAN, f"{TEMPORARY}*")
    with suppress(OSError):
        for path in [path for pattern in patterns for path in folder.glob(pattern)]:
            path.unlink(missing_ok=True)


def describe_whole(folder: Path, notes: tuple[str, ...]) -> PrepareResult:
    """What a folder that is whole holds. Raises DataError, StorageError."""
    facts, shards = read_manifest(folder)
    counts = (facts["tokens"], facts["documents"], facts["text_bytes"], len(facts["sources"]))
    return PrepareResult(folder, True, len(shards), *counts, notes)

"""What is prepared: sources in groups, groups in shards, and whose work each shard is.

A group is a source, or several small ones in order, up to the size of a shard. A shard is the next
pieces of its group's text up to that size; its name, GROUP-NUMBER, is the same in whatever parts
and processes the work is done, since no token has to be known to find where it begins.
"""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hermes.data.document_reader import TextFormat, choose_format
from hermes.data.file_names import expand_paths
from hermes.data.files import Paths, name_source
from hermes.data.prepared.manifest import MANIFEST, read_manifest
from hermes.data.prepared_folder import PLAN
from hermes.data.source_file import SourceFile, find_source
from hermes.errors import DataError
from hermes.formatting import format_count
from hermes.storage.plain_json import load_json
from hermes.storage.reading import hash_file

if TYPE_CHECKING:
    from hermes.tokenizer import Tokenizer

__all__ = [
    "PLAN",
    "SHARD_SIZE",
    "Part",
    "Plan",
    "PreparationOptions",
    "compare_sources",
    "describe_difference",
    "describe_restart",
    "group_sources",
    "is_more_lenient",
    "make_plan",
    "name_shard",
]

SHARD_SIZE = 100_000_000  # bytes of text


def name_shard(group: int, number: int) -> str:
    """The name of a shard's files, without their endings."""
    return f"{group:05}-{number:05}"


@dataclass(frozen=True)
class Part:
    """One of `count` parts of the work, `index` from 1."""

    index: int = 1
    count: int = 1

    @classmethod
    def parse(cls, text: str) -> "Part":
        """Parse 'I/N'. Raises DataError."""
        found = re.fullmatch(r"(\d+)/(\d+)", text)
        if found is None or not 1 <= int(found[1]) <= int(found[2]):
            raise DataError(f"--part {text}: expected I/N with I from 1 to N, as in 3/16")
        return cls(int(found[1]), int(found[2]))

    def has(self, groups: int, group: int, number: int) -> bool:
        """Whether a shard is this part's work; with few groups their shards are dealt out."""
        share = group if groups >= self.count else group + number
        return share % self.count == self.index - 1

    def may_have(self, groups: int, group: int) -> bool:
        """Whether any shard of a group may be this part's work."""
        return groups < self.count or group % self.count == self.index - 1


@dataclass(frozen=True)
class PreparationOptions:
    """What decides the bytes of a preparation besides its sources and tokenizer.

    shard_size: bytes of text per shard. max_bad_records: None to stop at the first bad record, else
    they are left out up to this share of all.
    """

    text_format: TextFormat = field(default_factory=TextFormat)
    shard_size: int = SHARD_SIZE
    max_bad_records: float | None = None

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise DataError(f"--shard-size must be at least 1, got {self.shard_size}")

    def describe(self) -> dict[str, Any]:
        """All options by name."""
        own = asdict(self)
        return {**own.pop("text_format"), **own}


@dataclass(frozen=True)
class Plan:
    """The work of a preparation. groups: numbers of sources."""

    sources: tuple[SourceFile, ...]
    groups: tuple[range, ...]
    options: PreparationOptions
    tokenizer: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes of all sources whose size is known."""
        return sum(source.size for source in self.sources)

    def to_json(self) -> bytes:
        """What parts and later attempts must agree on."""
        facts = {
            "tokenizer": self.tokenizer,
            "options": self.options.describe(),
            "sources": [source.describe() for source in self.sources],
        }
        return (json.dumps(facts, indent=1) + "\n").encode()


def make_plan(paths: Paths, tokenizer: "Tokenizer", options: PreparationOptions) -> Plan:
    """Plan the work. Raises DataError where there is no source or no end-of-text token."""
    if tokenizer.eos_id is None:
        raise DataError(
            "the tokenizer has no token that ends a text, such as '<|eos|>' or '</s>', so "
            "documents cannot be told apart; name one of its tokens with --eos, or use one that has"
        )
    sources = tuple(
        find_source(path, choose_format(path, options.text_format)) for path in expand_paths(paths)
    )
    facts = {
        "fingerprint": tokenizer.fingerprint,
        "vocab_size": tokenizer.vocab_size,
        "eos_id": tokenizer.eos_id,
        "beginning": tokenizer.beginning,
    }
    return Plan(sources, group_sources(sources, options.shard_size), options, facts)


def group_sources(sources: Sequence[SourceFile], size: int) -> tuple[range, ...]:
    """Group consecutive small files; a source of unknown size is alone."""
    groups: list[range] = []
    held, start = 0, 0
    for number, source in enumerate(sources):
        if number > start and (not source.is_file or held + source.size > size):
            groups.append(range(start, number))
            held, start = 0, number
        held += source.size if source.is_file else size
    groups.append(range(start, len(sources)))
    return tuple(groups)


def is_more_lenient(before: bytes, now: bytes) -> bool:
    """Whether a plan differs from an earlier one only in that bad records are left out from now on.

    What was finished had none, so it is the same by either plan.
    """
    there, here = load_json(before), load_json(now)
    was = there["options"].pop("max_bad_records", None)
    return here["options"].pop("max_bad_records") is not None and was is None and there == here


def describe_difference(before: bytes, now: bytes, folder: Path, *, is_whole: bool = False) -> str:
    """The sentence about a folder that was begun with another plan, and is_whole now or not."""
    found = _name_difference(load_json(before), load_json(now))
    done = "made" if is_whole else "begun"
    return f"{folder} was {done} with {found}; {describe_restart(folder)}"


def describe_restart(folder: Path) -> str:
    """What to do where the text cannot be prepared into a folder as it is."""
    quoted = shlex.quote(str(folder))
    return f"give another --output, or delete it (rm -r {quoted}) and prepare the text anew"


def _name_difference(there: dict[str, Any], here: dict[str, Any]) -> str:
    """What another plan had, and this one has not."""
    was, now = there["tokenizer"], here["tokenizer"]
    if was["fingerprint"] != now["fingerprint"]:
        return "another tokenizer"
    if was["eos_id"] != now["eos_id"]:
        return f"token {was['eos_id']} at the end of a text, and not {now['eos_id']} (--eos)"
    if was["beginning"] != now["beginning"]:
        begins = [
            f"token {one[0]}" if one else "nothing" for one in (was["beginning"], now["beginning"])
        ]
        return f"{begins[0]} at the beginning of a text, and not {begins[1]} (--bos)"
    for key, value in here["options"].items():
        other = there["options"].get(key)
        if other != value and (key != "max_bad_records" or other is not None):  # else it may change
            return f"{key} {other!r}, and not {value!r}"
    for old, new in zip(there["sources"], here["sources"], strict=False):
        if old["name"] != new["name"]:
            return f"{old['name']} where {new['name']} is now"
        if old != new:
            size = format_count(old["size"], "bytes")
            return f"{old['name']} of {size}, which has {new['size']:,} now"
    counts = len(there["sources"]), len(here["sources"])
    return f"{format_count(counts[0], 'files')}, and not {counts[1]:,}"


def compare_sources(folder: Path, plan: Plan) -> list[str]:
    """Compare sources changed since a folder was finished with the hashes of what was prepared.

    Their names and sizes are the plan's already. Returns sentences about those that cannot be
    compared: what is no file, and Parquet, of which no hash of the file is known. Raises DataError
    for the first that differs, StorageError.
    """
    facts, _ = read_manifest(folder)
    finished = (folder / MANIFEST).stat().st_mtime_ns
    notes = []
    for source, was in zip(plan.sources, facts["sources"], strict=True):
        if not source.is_file:
            notes.append(f"{name_source(source.path)} is not read again to be compared")
        elif source.modified <= finished:
            continue
        elif was["of"] != "file":
            notes.append(f"{source.name} was written to since, and only its size was compared")
        elif hash_file(source.path) != was["sha256"]:
            raise DataError(
                f"{folder} was prepared from {source.name} as it was before it was changed; "
                f"{describe_restart(folder)}"
            )
    return notes

"""manifest.json: the files of a checkpoint with their sizes and hashes.

It ends with the SHA-256 of its own bytes up to that last line, so that no byte of it can change
unnoticed either. It is written last: a folder without it was never finished.
"""

import hashlib
import os
import re
import stat
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from hermes.errors import CheckpointError
from hermes.formatting import format_count
from hermes.stages import report_stage
from hermes.storage.durable import FileDigest
from hermes.storage.path_kinds import PREPARED, describe_kind, say_kind
from hermes.storage.reading import hash_file, read_small, translate_read_error
from hermes.storage.strict_json import Json, parse_json, render_json

__all__ = [
    "FORMAT",
    "MANIFEST",
    "VERSION",
    "Manifest",
    "NewerFormat",
    "read_manifest",
    "verify_files",
]

MANIFEST = "manifest.json"
# Files that model repositories have for people; no reader takes them for part of a checkpoint.
FOR_PEOPLE = ("README.md", "LICENSE")
FORMAT = "hermes-checkpoint"
VERSION = 1
READERS = 4
REPORT_SECONDS = 0.25

FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}\Z")
SHA256 = re.compile(r"[0-9a-f]{64}\Z")
LAST_LINES = re.compile(rb'  "sha256": "([0-9a-f]{64})"\n}\n\Z')


class NewerFormat(CheckpointError):
    """A checkpoint of a later format version: never skipped, never replaced."""


@dataclass(frozen=True)
class Manifest:
    """A checkpoint's contents.

    run: an id shared by all checkpoints of a run. step: optimizer steps made. files: size and
    SHA-256 by name, without manifest.json itself.
    """

    run: str
    step: int
    files: Mapping[str, FileDigest]
    version: int = VERSION

    @property
    def size(self) -> int:
        """The size of all files but the manifest, in bytes."""
        return sum(file.size for file in self.files.values())

    def render(self) -> bytes:
        """Render manifest.json, ending with its own hash."""
        files = {
            name: {"sha256": file.sha256, "size": file.size}
            for name, file in sorted(self.files.items())
        }
        body = render_json(
            {"files": files, "format": FORMAT, "run": self.run, "step": self.step}
            | {"version": self.version}
        )
        start = body.removesuffix(b"\n}\n") + b",\n"
        digest = hashlib.sha256(start).hexdigest().encode("ascii")
        return start + b'  "sha256": "' + digest + b'"\n}\n'


def read_manifest(folder: Path) -> Manifest:
    """Read a checkpoint's manifest and check its own hash.

    Raises CheckpointError, NewerFormat where a later hermes wrote it, StorageError.
    """
    path = folder / MANIFEST
    data = read_small(path)
    if describe_kind(folder) == PREPARED:
        raise CheckpointError(
            f"{say_kind(folder)}; give a run, a checkpoint or the folder of a model"
        )
    last = LAST_LINES.search(data)
    if not last or hashlib.sha256(data[: last.start()]).hexdigest().encode() != last[1]:
        raise CheckpointError(f"{path} is damaged: its last line is not the SHA-256 of the others")
    body = parse_json(data, str(path))
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise CheckpointError(f"{path} is not of a hermes checkpoint")
    version = body.get("version")
    if type(version) is not int or version < 1:
        raise CheckpointError(f"{path} has no version of the format")
    if version > VERSION:
        raise NewerFormat(
            f"checkpoint {folder} has format version {version}; this hermes reads up to {VERSION}, "
            "so update it"
        )
    if set(body) != {"files", "format", "run", "sha256", "step", "version"}:
        raise CheckpointError(f"{path} must have exactly files, format, run, sha256, step, version")
    run, step, files = body["run"], body["step"], body["files"]
    if not isinstance(run, str) or type(step) is not int or step < 0 or not isinstance(files, dict):
        raise CheckpointError(f"{path} has a run, step or files of the wrong type")
    return Manifest(
        run, step, {name: _parse_file(path, name, files[name]) for name in files}, version
    )


def _parse_file(path: Path, name: str, entry: Json) -> FileDigest:
    if not FILE_NAME.match(name) or name == MANIFEST:
        raise CheckpointError(
            f"{path} lists {name!r}, which is not a name for a file of a checkpoint"
        )
    if (
        not isinstance(entry, dict)
        or set(entry) != {"sha256", "size"}
        or type(entry["size"]) is not int
        or entry["size"] < 0
        or not isinstance(entry["sha256"], str)
        or not SHA256.match(entry["sha256"])
    ):
        raise CheckpointError(f"{path} must give size and sha256 of {name!r}")
    return FileDigest(entry["size"], entry["sha256"])


def verify_files(folder: Path, manifest: Manifest, *, hashes: bool = True) -> None:
    """Check that a folder holds exactly the manifest's files, each as it was written.

    Names that begin with a dot, README.md and LICENSE are ignored. Without `hashes` only names and
    sizes are compared. Raises CheckpointError, StorageError.
    """
    try:
        entries = {e.name: e.stat(follow_symlinks=False) for e in os.scandir(folder)}
    except OSError as error:
        raise translate_read_error(folder, error) from error
    own = {name for name in entries if not name.startswith(".") and name != MANIFEST}
    present = own - (set(FOR_PEOPLE) - manifest.files.keys())
    for name in sorted(manifest.files.keys() - present):
        raise CheckpointError(f"checkpoint {folder} is torn: {name} is missing")
    for name in sorted(present - manifest.files.keys()):
        raise CheckpointError(
            f"checkpoint {folder} holds {name}, which is not in its {MANIFEST}; move it elsewhere"
        )
    for name, file in manifest.files.items():
        if not stat.S_ISREG(entries[name].st_mode):
            raise CheckpointError(f"{folder / name} is not a regular file")
        if entries[name].st_size != file.size:
            raise CheckpointError(
                f"{folder / name} is torn: it has {format_count(entries[name].st_size, 'bytes')}, "
                f"{MANIFEST} says {file.size:,}"
            )
    if not hashes:
        return
    # Largest first, so that the threads finish at about the same time.
    names = sorted(manifest.files, key=lambda name: -manifest.files[name].size)
    total, hashed = sum(file.size for file in manifest.files.values()), [0]

    def count(block: int) -> None:
        hashed[0] += block  # of some threads: a lost addition is a percent less that is shown

    with ThreadPoolExecutor(READERS) as pool:
        waiting = [pool.submit(hash_file, folder / name, count) for name in names]
        try:
            # Stages belong to this thread.
            while wait(waiting, REPORT_SECONDS).not_done:
                report_stage(f"verifying {folder}", hashed[0], total)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
        report_stage("")
        for name, digest in zip(names, (one.result() for one in waiting), strict=True):
            if digest != manifest.files[name].sha256:
                pool.shutdown(wait=False, cancel_futures=True)
                raise CheckpointError(
                    f"{folder / name} was altered: its SHA-256 is {digest}, "
                    f"{MANIFEST} says {manifest.files[name].sha256}"
                )

"""Downloads models from the Hugging Face Hub: `hf://owner/repo@revision` becomes a local folder.

Files are downloaded into huggingface_hub's own cache. Next to its snapshots, the folder
`hermes/COMMIT` holds links to the files that hermes reads. It gets that name only when all of them
are there and match the Hub's hashes, so a folder with such a name is a complete model. Access
tokens are left to huggingface_hub and never read here.
"""

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hermes.checkpoint.find import resolve_run_name
from hermes.checkpoint.manifest import MANIFEST, read_manifest
from hermes.errors import CheckpointError, HermesError, StorageError
from hermes.interop.hub_client import require_hub, translate_hub_errors
from hermes.mal import list_bundled
from hermes.storage.addresses import find_address
from hermes.storage.durable import Disk, link_or_copy, write_atomically, write_folder_atomically
from hermes.storage.plain_json import load_json
from hermes.storage.reading import hash_file
from hermes.tokenizer import Tokenizer

__all__ = [
    "FetchedModel",
    "HubName",
    "describe_missing_model",
    "fetch",
    "is_hub_repo",
    "load_tokenizer",
    "parse_hub_name",
    "pin_commit",
    "require_model_present",
    "resolve_hub_path",
]

# Files read from a repository that hermes did not write; shards are found by the index.
READ = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab"
    r"|adapter_config)\.json|merges\.txt|(tokenizer|spiece|sentencepiece\.bpe)\.model"
    r"|[\w.-]+\.tiktoken|chat_template\.jinja|model\.mal"
    r"|(adapter_)?model\.safetensors|adapters\.safetensors|lit_model\.pth|model_config\.yaml"
)
INDEX = "model.safetensors.index.json"
COMMIT = re.compile(r"[0-9a-f]{40}")
# One slash is accepted too, because a Path collapses two.
NAME = re.compile(r"hf:/{1,2}(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?")


@dataclass(frozen=True)
class HubName:
    """A repository of models and one of its revisions: a branch, a tag or a commit."""

    repo: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf://{self.repo}" + ("" if self.revision == "main" else f"@{self.revision}")


@dataclass(frozen=True)
class FetchedModel:
    """A complete local copy of a model. commit: 40 hex digits; notes: for the user."""

    folder: Path
    commit: str
    notes: tuple[str, ...] = ()


def parse_hub_name(path: str | os.PathLike[str]) -> HubName | None:
    """Parse an hf:// name; None for a local path. Raises HermesError if it is malformed."""
    text = os.fspath(path)
    if not text.startswith("hf:/"):
        return None
    found = NAME.fullmatch(text)
    if found is None:
        raise HermesError(
            f"hf://{text.removeprefix('hf:').lstrip('/')}: a model on the Hub is named "
            "hf://OWNER/REPO or hf://OWNER/REPO@REVISION"
        )
    return HubName(found["repo"], found["revision"] or "main")


def resolve_hub_path(path: str | os.PathLike[str]) -> tuple[Path, tuple[str, ...]]:
    """Resolve a local path or an hf:// name, which is downloaded first, with notes for the user.

    RUN/checkpoint_epoch_N.safetensors and RUN/config.json are as `resolve_run_name` has them.

    Raises HermesError, CheckpointError, StorageError.
    """
    name = parse_hub_name(path)
    if name is None:
        return resolve_run_name(Path(path)), ()
    found = fetch(name)
    return found.folder, found.notes


def describe_missing_model(path: Path) -> str:
    """The sentence about a model's name that stands for nothing on this machine."""
    if address := find_address(path):
        return (
            f"{address} is an address, and models are read from files or from the Hub, as "
            "hf://OWNER/REPO; download it first"
        )
    missing = f"{path}: no such file or folder; check the name"
    if str(path) in list_bundled():
        return (
            f"{path} is a bundled architecture, which has no weights; train one by hermes train "
            f"--model {path}, or give a model that is trained"
        )
    if is_hub_repo(path):
        return f"{missing}, or give hf://{path} for a model on the Hub"
    return missing


def is_hub_repo(path: Path) -> bool:
    """Whether what is no path here is OWNER/REPO, which names a model of the Hub without hf://."""
    return NAME.fullmatch(f"hf://{path}") is not None and not path.parent.exists()


def require_model_present(path: str | os.PathLike[str]) -> None:
    """Refuse a model that is not there, before anything is loaded that takes long.

    Downloads nothing: what is named on the Hub is not looked at. Raises CheckpointError, and
    HermesError for a malformed name.
    """
    if parse_hub_name(path) is None:
        local = resolve_run_name(Path(path))
        if not local.exists():
            raise CheckpointError(describe_missing_model(local))


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """Load the tokenizer of a tokenizer.json, of a folder that has one, or of a model on the Hub.

    Raises DataError, StorageError, and for the Hub HermesError.
    """
    return Tokenizer.load(resolve_hub_path(path)[0])


def fetch(name: HubName, *, endpoint: str | None = None, cache: Path | None = None) -> FetchedModel:
    """Download the files of a repository that hermes reads, all of them or none.

    endpoint, cache: None for huggingface_hub's own settings. If the Hub cannot be reached, the
    latest complete copy of that revision is used, with a note. Raises HermesError, CheckpointError,
    StorageError.
    """
    hub = require_hub()
    folder = _find_cache_folder(name, cache)
    cached = _RevisionCache(folder / "revisions", name.revision)
    if COMMIT.fullmatch(name.revision) and (folder / name.revision).is_dir():
        return FetchedModel(folder / name.revision, name.revision)
    api = hub.HfApi(endpoint=endpoint)
    try:
        with translate_hub_errors(str(name), f"hf://{name.repo}"):
            info = api.model_info(name.repo, revision=name.revision, files_metadata=True)
    except StorageError as error:
        commit = cached.read()
        if commit is None or not (folder / commit).is_dir():
            raise
        return FetchedModel(
            folder / commit, commit, (f"{error}; using the copy of commit {commit[:12]}",)
        )
    if not (folder / info.sha).is_dir():
        listed = {one.rfilename: one for one in info.siblings or ()}
        with translate_hub_errors(str(name), f"hf://{name.repo}"):
            files = _download(hub, name, info.sha, listed, endpoint, cache)
        _store_verified(files, listed, folder / info.sha, name)
    cached.write(info.sha)
    return FetchedModel(folder / info.sha, info.sha)


def _find_cache_folder(name: HubName, cache: Path | None) -> Path:
    """Find the folder in which complete copies of a repository are kept."""
    hub = require_hub()
    repo = hub.file_download.repo_folder_name(repo_id=name.repo, repo_type="model")
    return Path(cache or hub.constants.HF_HUB_CACHE, repo, "hermes")


def pin_commit(path: str) -> str:
    """Replace the revision of an hf:// name by the commit last fetched; keep a local path."""
    name = parse_hub_name(path)
    if name is None:
        return path
    commit = _RevisionCache(_find_cache_folder(name, None) / "revisions", name.revision).read()
    return str(HubName(name.repo, commit)) if commit else path


class _RevisionCache:
    """Remembers which commit a revision was when the Hub was last reached."""

    def __init__(self, folder: Path, revision: str):
        self._file = folder / quote(revision, safe="")

    def read(self) -> str | None:
        with suppress(OSError):
            text = self._file.read_text(encoding="ascii", errors="replace")
            return text if COMMIT.fullmatch(text) else None
        return None

    def write(self, commit: str) -> None:
        with suppress(OSError, StorageError):  # a shared cache may be read-only
            self._file.parent.mkdir(exist_ok=True)
            write_atomically(self._file, commit.encode("ascii"))


def _download(
    hub: Any,
    name: HubName,
    commit: str,
    listed: Mapping[str, Any],
    endpoint: str | None,
    cache: Path | None,
) -> dict[str, Path]:
    """Download the files that hermes reads into huggingface_hub's cache."""
    if not sys.stderr.isatty():
        hub.utils.disable_progress_bars()

    def get(names: list[str]) -> dict[str, Path]:
        folder = hub.snapshot_download(
            name.repo, revision=commit, endpoint=endpoint, cache_dir=cache, allow_patterns=names
        )
        return {one: Path(folder, one) for one in names}

    if MANIFEST in listed:
        files = get([MANIFEST])
        wanted = set(read_manifest(files[MANIFEST].parent).files)
        if lacking := sorted(wanted - listed.keys()):
            raise CheckpointError(f"{name} is incomplete: {lacking[0]} is missing")
        return files | get(sorted(wanted))
    wanted = {one for one in listed if READ.fullmatch(one)}
    files = {}
    if INDEX in listed:
        files = get([INDEX])
        wanted |= _read_shard_names(files[INDEX]) & listed.keys()
    if not wanted:
        raise CheckpointError(f"{name} is no model hermes reads: it has no config.json")
    return files | get(sorted(wanted))


def _read_shard_names(index: Path) -> set[str]:
    """Read the names of an index's shards; a broken index is reported when it is opened."""
    try:
        names = load_json(index.read_bytes())["weight_map"].values()
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()
    return {name for name in names if isinstance(name, str) and "/" not in name}


def _store_verified(
    files: Mapping[str, Path], listed: Mapping[str, Any], target: Path, name: HubName
) -> None:
    """Link the files into `target`, each verified by the Hub's hash, all of them or none."""
    disk = Disk()
    target.parent.mkdir(exist_ok=True)
    with write_folder_atomically(target, disk) as unfinished:
        for one, path in files.items():
            link_or_copy(path.resolve(), unfinished / one, disk)
            if not _is_as_listed(unfinished / one, listed[one]):
                path.resolve().unlink()
                raise CheckpointError(
                    f"{one} of {name} does not match the Hub's hash of it and was removed; try "
                    "again to download it anew"
                )
        disk.sync_folder(unfinished)


def _is_as_listed(path: Path, listed: Any) -> bool:
    """Whether a file matches the Hub's hash: SHA-256 for LFS files, else git's blob hash."""
    if listed.lfs is not None:
        same: bool = hash_file(path) == listed.lfs.sha256
        return same
    data = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return bool(git == listed.blob_id)

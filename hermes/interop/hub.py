"""Models on the Hugging Face Hub: `hf://owner/repo@revision` becomes a folder on this machine.

What is fetched lies in huggingface_hub's own cache. Beside it, `hermes/COMMIT` holds the files that
hermes reads, linked: each was compared with the Hub's hash of it, and the folder got its name when
all were there, so a name that is there is a whole model. Tokens are huggingface_hub's affair: they
are never read here, and no text of the Hub's errors is passed on.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from hermes.checkpoint.manifest import MANIFEST, read_manifest
from hermes.errors import CheckpointError, HermesError, StorageError
from hermes.storage.durable import Disk, link_or_copy, write_atomically, write_folder_atomically
from hermes.storage.reading import hash_file
from hermes.tokenizer import Tokenizer

__all__ = [
    "FetchedModel",
    "HubName",
    "fetch",
    "parse_hub_name",
    "pin_commit",
    "require_hub",
    "resolve_hub_path",
    "translate_hub_errors",
]

# Of a repository that hermes did not write; its index names the shards.
READ = re.compile(
    r"(config|generation_config|tokenizer|tokenizer_config|special_tokens_map|added_tokens|vocab"
    r"|adapter_config)\.json|merges\.txt|tokenizer\.model|chat_template\.jinja|model\.mal"
    r"|(adapter_)?model\.safetensors|lit_model\.pth|model_config\.yaml"
)
INDEX = "model.safetensors.index.json"
COMMIT = re.compile(r"[0-9a-f]{40}")
# A Path makes one slash of two.
NAME = re.compile(r"hf:/{1,2}(?P<repo>\w[\w.-]*/\w[\w.-]*)(@(?P<revision>\w[\w./-]*))?")
DENIED = (401, 403)


@dataclass(frozen=True)
class HubName:
    """A repository of models and one of its revisions: a branch, a tag or a commit."""

    repo: str
    revision: str = "main"

    def __str__(self) -> str:
        return f"hf://{self.repo}" + ("" if self.revision == "main" else f"@{self.revision}")


@dataclass(frozen=True)
class FetchedModel:
    """A whole model on this machine. commit: of 40 hex digits; notes: what its user should know."""

    folder: Path
    commit: str
    notes: tuple[str, ...] = ()


def parse_hub_name(place: str | os.PathLike[str]) -> HubName | None:
    """What a place names on the Hub, None of one on this machine. Raises HermesError."""
    text = os.fspath(place)
    if not text.startswith("hf:/"):
        return None
    found = NAME.fullmatch(text)
    if found is None:
        raise HermesError(
            f"hf://{text.removeprefix('hf:').lstrip('/')}: a model on the Hub is named "
            "hf://OWNER/REPO or hf://OWNER/REPO@REVISION"
        )
    return HubName(found["repo"], found["revision"] or "main")


def resolve_hub_path(place: str | os.PathLike[str]) -> tuple[Path, tuple[str, ...]]:
    """The place on this machine, fetched first where it is on the Hub, and what to say about it.

    Raises HermesError, CheckpointError, StorageError.
    """
    name = parse_hub_name(place)
    if name is None:
        return Path(place), ()
    found = fetch(name)
    return found.folder, found.notes


def load_tokenizer(place: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer of a tokenizer.json, of a folder that has one, or of a model on the Hub.

    Raises DataError, StorageError, and for the Hub HermesError.
    """
    return Tokenizer.load(resolve_hub_path(place)[0])


def fetch(name: HubName, *, endpoint: str | None = None, cache: Path | None = None) -> FetchedModel:
    """Fetch what hermes reads of a repository, all of it or nothing.

    endpoint and cache: None for what huggingface_hub's own variables say. Where the Hub cannot be
    reached, a whole copy of that revision is taken if there is one, and a note says so. Raises
    HermesError, CheckpointError, StorageError.
    """
    hub = require_hub()
    place = _find_cache_folder(name, cache)
    known = _RevisionCache(place / "revisions", name.revision)
    if COMMIT.fullmatch(name.revision) and (place / name.revision).is_dir():
        return FetchedModel(place / name.revision, name.revision)
    api = hub.HfApi(endpoint=endpoint)
    try:
        with translate_hub_errors(str(name), f"hf://{name.repo}"):
            info = api.model_info(name.repo, revision=name.revision, files_metadata=True)
    except StorageError as error:
        commit = known.read()
        if commit is None or not (place / commit).is_dir():
            raise
        return FetchedModel(
            place / commit, commit, (f"{error}; its copy of commit {commit[:12]} is taken",)
        )
    if not (place / info.sha).is_dir():
        listed = {one.rfilename: one for one in info.siblings or ()}
        with translate_hub_errors(str(name), f"hf://{name.repo}"):
            files = _download(hub, name, info.sha, listed, endpoint, cache)
        _store_verified(files, listed, place / info.sha, name)
    known.write(info.sha)
    return FetchedModel(place / info.sha, info.sha)


def _find_cache_folder(name: HubName, cache: Path | None) -> Path:
    """Where the whole models of a repository are kept."""
    hub = require_hub()
    own = hub.file_download.repo_folder_name(repo_id=name.repo, repo_type="model")
    return Path(cache or hub.constants.HF_HUB_CACHE, own, "hermes")


def pin_commit(place: str) -> str:
    """A place on the Hub with the commit that was last fetched, so that it stays the same."""
    name = parse_hub_name(place)
    if name is None:
        return place
    commit = _RevisionCache(_find_cache_folder(name, None) / "revisions", name.revision).read()
    return str(HubName(name.repo, commit)) if commit else place


class _RevisionCache:
    """The commit that a revision was when the Hub was last asked."""

    def __init__(self, folder: Path, revision: str):
        self._file = folder / quote(revision, safe="")

    def read(self) -> str | None:
        with suppress(OSError):
            text = self._file.read_text(encoding="ascii", errors="replace")
            return text if COMMIT.fullmatch(text) else None
        return None

    def write(self, commit: str) -> None:
        with suppress(OSError, StorageError):  # a cache that others filled may be read-only
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
    """The files that hermes reads, in huggingface_hub's cache."""
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
            raise CheckpointError(f"{name} is torn: {lacking[0]} is missing")
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
    """The files that an index names; what is wrong with it is told when it is read."""
    try:
        places = json.loads(index.read_bytes())["weight_map"].values()
    except (ValueError, KeyError, TypeError, AttributeError):
        return set()
    return {place for place in places if isinstance(place, str) and "/" not in place}


def _store_verified(
    files: Mapping[str, Path], listed: Mapping[str, Any], target: Path, name: HubName
) -> None:
    """A folder of these files, each compared with the Hub's hash, that is whole or not there."""
    disk = Disk()
    target.parent.mkdir(exist_ok=True)
    with write_folder_atomically(target, disk) as beside:
        for one, path in files.items():
            link_or_copy(path.resolve(), beside / one, disk)
            if not _is_as_listed(beside / one, listed[one]):
                path.resolve().unlink()
                raise CheckpointError(
                    f"{one} of {name} did not arrive as the Hub has it; try again, and it is "
                    "fetched anew"
                )
        disk.sync_folder(beside)


def _is_as_listed(path: Path, listed: Any) -> bool:
    """Whether a file's bytes are those that the Hub lists: by SHA-256, or git's hash of it."""
    if listed.lfs is not None:
        same: bool = hash_file(path) == listed.lfs.sha256
        return same
    data = path.read_bytes()
    git = hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()
    return bool(git == listed.blob_id)


def require_hub() -> Any:
    """huggingface_hub. Raises HermesError where it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.file_download
        import huggingface_hub.utils
    except ImportError as error:
        raise HermesError(
            f"models on the Hub need huggingface_hub, which is not installed ({error}); "
            "pip install 'hermes-llm[hub]'"
        ) from None
    return huggingface_hub


@contextmanager
def translate_hub_errors(what: str, repo: str) -> Iterator[None]:
    """A block whose trouble with the Hub is told in one sentence, of ours alone.

    what: it is about; repo: the page where access is asked for. Raises HermesError, StorageError.
    """
    try:
        yield
    except HermesError:
        raise
    except Exception as error:  # of several libraries, and every release has others
        raise _translate_error(error, what, repo) from None


def _translate_error(error: Exception, what: str, repo: str) -> HermesError:
    from huggingface_hub import errors

    access = "give a token that may, in HF_TOKEN or by 'hf auth login'"
    status = getattr(getattr(error, "response", None), "status_code", None)
    match error:
        case errors.GatedRepoError():
            return HermesError(f"{what} is gated; ask for access to {repo}, and {access}")
        case errors.RevisionNotFoundError():
            return HermesError(f"{what}: {repo} has no such revision")
        case errors.RepositoryNotFoundError():
            return HermesError(
                f"{what}: no such model, or a private one; check the name, or {access}"
            )
        case errors.LocalTokenNotFoundError():
            return HermesError(f"{what}: no token; {access}")
        case errors.HFValidationError():
            return HermesError(f"{what}: no name of a repository, which is OWNER/REPO")
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
            return StorageError(f"{what}: the Hub is out of reach")
        case errors.HfHubHTTPError() if status in DENIED:
            return HermesError(f"{what}: the Hub does not permit it; {access}")
        case errors.HfHubHTTPError():
            return StorageError(f"{what}: the Hub answered {status}")
        case OSError() if error.errno is not None and error.strerror:
            return StorageError(f"{what}: {error.strerror.lower()}")
    return StorageError(f"{what}: the connection to the Hub failed ({type(error).__name__})")

"""Puts a model on the Hugging Face Hub: converted, proven, and in one commit or not at all."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hermes.checkpoint.manifest import MANIFEST
from hermes.errors import HermesError
from hermes.interop.convert import Conversion, convert
from hermes.interop.hub import READ, require_hub, translate_hub_errors
from hermes.interop.model_card import render_card

__all__ = ["PublishedModel", "publish", "require_writable"]

CARD = "README.md"
REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# What an earlier push may have left, and would be read beside or instead of the new files.
STALE = re.compile(
    rf"{READ.pattern}|{re.escape(MANIFEST)}|progress\.json|optimizer\.safetensors"
    r"|model-\d+-of-\d+\.safetensors|model\.safetensors\.index\.json"
)


@dataclass(frozen=True)
class PublishedModel:
    """What was put where. page: its address; commit: of 40 hex digits."""

    converted: Conversion
    page: str
    commit: str
    notes: tuple[str, ...]


def require_writable(repo: str, *, public: bool = False, endpoint: str | None = None) -> Any:
    """The Hub's interface, once `repo` is there and may be written to; it is made where it is not.

    public: of a repository that is made; else it is private. Raises HermesError, StorageError.
    """
    if not REPO.fullmatch(repo):
        raise HermesError(f"{repo!r} is no name of a repository, which is OWNER/REPO")
    api = require_hub().HfApi(endpoint=endpoint)
    with translate_hub_errors(f"push to {repo}", f"hf://{repo}"):
        api.whoami()
        api.create_repo(repo, private=not public, exist_ok=True)
    return api


def publish(
    source: Path,
    repo: str,
    *,
    to: str = "hermes",
    dtype: str | None = None,
    config: Path | None = None,
    public: bool = False,
    endpoint: str | None = None,
    backend: str | None = None,
    on_progress: Callable[[str, float], None] = lambda stage, share: None,
) -> PublishedModel:
    """Convert the model at `source` as `convert` does, and make it what `repo` holds.

    No optimizer's state goes along, and adapters are merged in. Files of an earlier model are
    removed in the same commit; a README.md that is there stays. backend: of the proof. Raises
    HermesError and what it is the base of.
    """
    api = require_writable(repo, public=public, endpoint=endpoint)
    with TemporaryDirectory(prefix="hermes-push-") as folder:
        made = convert(
            source,
            Path(folder, "model"),
            to=to,
            dtype=dtype,
            config=config,
            backend=backend,
            on_progress=on_progress,
        )
        with translate_hub_errors(f"push to {repo}", f"hf://{repo}"):
            there = {one.rfilename for one in api.model_info(repo).siblings or ()}
            done = api.create_commit(
                repo,
                operations=_plan_commit(Path(folder, "model"), there, render_card(made, repo)),
                commit_message=f"{made.source.spec.name}, {made.architecture}, {made.dtype}",
            )
    kept = (f"{CARD} of {repo} stays as it is",) if CARD in there else ()
    return PublishedModel(made, f"{api.endpoint}/{repo}", done.oid, made.notes + kept)


def _plan_commit(folder: Path, there: set[str], text: str) -> list[Any]:
    hub = require_hub()
    new = {path.name: path for path in sorted(folder.iterdir())}
    stale = sorted(name for name in there - new.keys() if STALE.fullmatch(name))
    operations = [hub.CommitOperationDelete(path_in_repo=name) for name in stale]
    for name, path in new.items():
        operations.append(hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=path))
    if CARD not in there:
        data = text.encode("utf-8")
        operations.append(hub.CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=data))
    return operations

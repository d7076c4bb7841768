"""Uploads a model to the Hugging Face Hub: converted, verified, and in a single commit."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes.checkpoint.manifest import MANIFEST
from hermes.errors import HermesError
from hermes.interop.convert import Conversion, convert, require_convertible
from hermes.interop.hub import READ, parse_hub_name
from hermes.interop.hub_client import require_hub, translate_hub_errors
from hermes.interop.model_card import render_card
from hermes.stages import report_stage
from hermes.storage.temporary import TemporaryFolder

__all__ = ["PublishedModel", "publish", "require_repo_name", "require_writable"]

CARD = "README.md"
REPO = re.compile(r"\w[\w.-]*/\w[\w.-]*")
# Files of an earlier push, which readers would take instead of the new ones.
STALE = re.compile(
    rf"{READ.pattern}|{re.escape(MANIFEST)}|progress\.json|optimizer\.safetensors"
    r"|model-\d+-of-\d+\.safetensors|model\.safetensors\.index\.json"
)


@dataclass(frozen=True)
class PublishedModel:
    """An uploaded model. page: its URL; commit: 40 hex digits; notes: for the user."""

    converted: Conversion
    page: str
    commit: str
    notes: tuple[str, ...]


def require_repo_name(repo: str) -> None:
    """Refuse what names no repository of the Hub, without asking it. Raises HermesError."""
    if not REPO.fullmatch(repo):
        raise HermesError(f"{repo!r} is not the name of a repository, OWNER/REPO")


def require_writable(repo: str, *, public: bool = False, endpoint: str | None = None) -> Any:
    """Create `repo` if it does not exist, check write access, and return the Hub's API client.

    public: visibility of a new repository; private by default. Raises HermesError, StorageError.
    """
    require_repo_name(repo)
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
    ignore_fields: Sequence[str] = (),
    public: bool = False,
    endpoint: str | None = None,
    backend: str | None = None,
    force: bool = False,
    on_progress: Callable[[str, float], None] = lambda stage, share: None,
) -> PublishedModel:
    """Convert the model at `source` as `convert` does and upload it as the content of `repo`.

    Adapters are merged; optimizer state is not uploaded. The same commit removes the files of an
    earlier model; an existing README.md stays. backend: for the verification. force: as in
    `convert`. Raises HermesError and its subclasses.
    """
    require_repo_name(repo)
    if parse_hub_name(source) is None:  # what is here is looked at before the Hub is asked
        require_convertible(source, to=to, dtype=dtype, config=config, ignore_fields=ignore_fields)
    api = require_writable(repo, public=public, endpoint=endpoint)
    with TemporaryFolder("push") as folder:
        made = convert(
            source,
            Path(folder, "model"),
            to=to,
            dtype=dtype,
            config=config,
            ignore_fields=ignore_fields,
            backend=backend,
            force=force,
            on_progress=on_progress,
        )
        report_stage(f"uploading to {repo}")
        with translate_hub_errors(f"push to {repo}", f"hf://{repo}"):
            there = {one.rfilename for one in api.model_info(repo).siblings or ()}
            done = api.create_commit(
                repo,
                operations=_plan_commit(Path(folder, "model"), there, render_card(made, repo)),
                commit_message=f"{made.source.spec.name}, {made.architecture}, {made.dtype}",
            )
    report_stage("")
    kept = (f"{CARD} of {repo} stays as it is",) if CARD in there else ()
    return PublishedModel(made, f"{api.endpoint}/{repo}", done.oid, made.notes + kept)


def _plan_commit(folder: Path, there: set[str], card: str) -> list[Any]:
    """Plan a commit that makes `folder` the content of a repository.

    there: the files that it has; card: its README.md if it has none.
    """
    hub = require_hub()
    new = {path.name: path for path in sorted(folder.iterdir())}
    stale = sorted(name for name in there - new.keys() if STALE.fullmatch(name))
    operations = [hub.CommitOperationDelete(path_in_repo=name) for name in stale]
    for name, path in new.items():
        operations.append(hub.CommitOperationAdd(path_in_repo=name, path_or_fileobj=path))
    if CARD not in there:
        data = card.encode("utf-8")
        operations.append(hub.CommitOperationAdd(path_in_repo=CARD, path_or_fileobj=data))
    return operations

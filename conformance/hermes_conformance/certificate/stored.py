"""A certificate kept with a checkpoint: in its folder, under a name that is no part of it."""

import json
from pathlib import Path
from typing import Any

from hermes.checkpoint import Checkpoint, locate
from hermes.errors import HermesError
from hermes.interface import Backend
from hermes.storage.durable import write_atomically
from hermes.storage.reading import hash_file
from hermes_conformance.certificate.issue import sealed

NAME = ".conformance.json"


def read(path: Path) -> dict[str, Any]:
    """The certificate in a file, or the one kept with a checkpoint. Raises HermesError, OSError."""
    if path.is_dir():
        path = locate(path)[0].path / NAME
        if not path.exists():
            raise HermesError(
                f"{path.parent} has no certificate; hermes conformance run --checkpoint makes one"
            )
    try:
        made = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise HermesError(f"{path}: not a certificate: {error}") from None
    if not isinstance(made, dict) or "format" not in made:
        raise HermesError(f"{path}: not a certificate: expected an object with a format")
    return made


def write(made: dict[str, Any], path: Path) -> None:
    """A certificate as a file."""
    write_atomically(path, (json.dumps(made, indent=1) + "\n").encode("utf-8"))


def keep(made: dict[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    """Keep it with the checkpoint, which it names by the hash of its manifest."""
    bound = sealed({**made, "checkpoint": _manifest(checkpoint)})
    write(bound, checkpoint.path / NAME)
    return bound


def require_writer(backend: Backend, checkpoint: Checkpoint) -> None:
    """Refuse to keep what `backend` earns with a checkpoint that another wrote, or another version.

    Raises HermesError.
    """
    if not checkpoint.resumable:
        return
    name, wrote = backend.name, checkpoint.progress.backend
    if wrote != name:
        raise HermesError(
            f"{checkpoint.path}: {wrote} wrote the checkpoint, so a certificate of {name} would "
            f"not speak for it; judge {wrote} with --backend {wrote}, or leave --checkpoint out"
        )
    for library, here in backend.versions().items():
        if (then := checkpoint.progress.versions.get(library, here)) != here:
            raise HermesError(
                f"{checkpoint.path}: {library} {then} wrote the checkpoint, so a certificate of "
                f"{library} {here} would not speak for it; judge it where {library} {then} is, "
                "or leave --checkpoint out"
            )


def strangers(made: dict[str, Any], checkpoint: Checkpoint) -> list[str]:
    """Why a certificate does not speak for a checkpoint; nothing if it does.

    It does where it was made for these very bytes, and judged who wrote them, in these versions.
    """
    wrong = []
    if made.get("checkpoint") != _manifest(checkpoint):
        wrong.append("it was made for another checkpoint")
    if not checkpoint.resumable:
        return wrong
    progress = checkpoint.progress
    if progress.backend != made["backend"]:
        wrong.append(f"it judged {made['backend']}; {progress.backend} wrote the checkpoint")
        return wrong
    for name, wrote in progress.versions.items():
        if (judged := made["versions"].get(name, wrote)) != wrote:
            wrong.append(f"it judged {name} {judged}; {wrote} wrote the checkpoint")
    return wrong


def _manifest(checkpoint: Checkpoint) -> str:
    return hash_file(checkpoint.path / "manifest.json")

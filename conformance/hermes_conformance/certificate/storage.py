"""Certificates in files, and kept with a checkpoint: in its folder, but no part of it."""

import json
from pathlib import Path
from typing import Any

from hermes.checkpoint import Checkpoint, locate
from hermes.errors import HermesError
from hermes.interface import Backend
from hermes.storage.durable import write_atomically
from hermes.storage.plain_json import load_json
from hermes.storage.reading import hash_file
from hermes_conformance.certificate.issue import seal

NAME = ".conformance.json"


def read_certificate(path: Path) -> dict[str, Any]:
    """The certificate in a file, or the one kept with a checkpoint. Raises HermesError, OSError."""
    if path.is_dir():
        path = locate(path)[0].path / NAME
        if not path.exists():
            raise HermesError(
                f"{path.parent} has no certificate; hermes conformance run --checkpoint makes one"
            )
    try:
        value = load_json(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        why = f"not UTF-8 at byte {error.start}"
    except ValueError as error:
        why = f"not JSON ({error})"
    else:
        if isinstance(value, dict) and "format" in value:
            return value
        why = "expected an object with a format"
    made = "hermes conformance run --json FILE writes one"
    raise HermesError(f"{path}: not a certificate: {why}; {made}")


def write_certificate(certificate: dict[str, Any], path: Path) -> None:
    """Write a certificate to a file."""
    write_atomically(path, (json.dumps(certificate, indent=1) + "\n").encode("utf-8"))


def keep_certificate(certificate: dict[str, Any], checkpoint: Checkpoint) -> dict[str, Any]:
    """Write a certificate to a checkpoint's folder, tied to it by the hash of its manifest.

    Returns the certificate as written.
    """
    tied = seal({**certificate, "checkpoint": _hash_manifest(checkpoint)})
    write_certificate(tied, checkpoint.path / NAME)
    return tied


def require_writer(backend: Backend, checkpoint: Checkpoint) -> None:
    """Refuse to keep a backend's certificate with a checkpoint that another backend wrote.

    Nor with one that another version of its libraries wrote. Raises HermesError.
    """
    if not checkpoint.resumable:
        return
    name, writer = backend.name, checkpoint.progress.backend
    if writer != name:
        raise HermesError(
            f"{checkpoint.path}: {writer} wrote the checkpoint, so a certificate of {name} would "
            f"not speak for it; judge {writer} with --backend {writer}, or leave --checkpoint out"
        )
    for library, here in backend.versions().items():
        if (then := checkpoint.progress.versions.get(library, here)) != here:
            raise HermesError(
                f"{checkpoint.path}: {library} {then} wrote the checkpoint, so a certificate of "
                f"{library} {here} would not speak for it; judge it where {library} {then} is, "
                "or leave --checkpoint out"
            )


def find_mismatches(certificate: dict[str, Any], checkpoint: Checkpoint) -> list[str]:
    """Why a certificate does not speak for a checkpoint; none if it does.

    It does if it was made for these very bytes, and judged the backend that wrote them, in the same
    versions.
    """
    mismatches = []
    if certificate.get("checkpoint") != _hash_manifest(checkpoint):
        mismatches.append("it was made for another checkpoint")
    if not checkpoint.resumable:
        return mismatches
    progress = checkpoint.progress
    if progress.backend != certificate["backend"]:
        mismatches.append(
            f"it judged {certificate['backend']}; {progress.backend} wrote the checkpoint"
        )
        return mismatches
    for name, writer in progress.versions.items():
        if (judged := certificate["versions"].get(name, writer)) != writer:
            mismatches.append(f"it judged {name} {judged}; {writer} wrote the checkpoint")
    return mismatches


def _hash_manifest(checkpoint: Checkpoint) -> str:
    return hash_file(checkpoint.path / "manifest.json")

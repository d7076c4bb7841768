"""Reads an architecture wherever it lies: bundled, in MAL, in a model's files or in a run."""

import os
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hermes import mal
from hermes.errors import HermesError
from hermes.spec import ModelSpec

__all__ = ["FoundArchitecture", "find_architecture", "locate_architecture", "read_architecture"]

SPEC, CONFIG, LITGPT = "model.mal", "config.json", "lit_model.pth"
TORCH = (".pt", ".pth", ".ckpt", ".bin")
FILES = (".mal", ".json", ".safetensors", *TORCH)


@dataclass(frozen=True)
class FoundArchitecture:
    """An architecture. folder: of the model that has it, if it lies in one.

    foreign: whether it is in another tool's files. notes: for the user.
    """

    spec: ModelSpec
    folder: Path | None = None
    foreign: bool = False
    notes: tuple[str, ...] = ()


def read_architecture(
    source: str | os.PathLike[str], ignore_fields: Iterable[str] = ()
) -> ModelSpec:
    """Read what `find_architecture` finds; its notes are warnings."""
    found = find_architecture(source, ignore_fields)
    for note in found.notes:
        warnings.warn(note, stacklevel=4)
    return found.spec


def find_architecture(
    source: str | os.PathLike[str], ignore_fields: Iterable[str] = ()
) -> FoundArchitecture:
    """Find an architecture by bundled name, MAL file or text, model or run.

    A model is a checkpoint, a folder or config.json of Hugging Face, a file of weights with its
    configuration beside it, or hf://OWNER/REPO, which is downloaded first. Of a run its newest
    checkpoint is taken, and of the names of `resolve_run_name` what they stand for. ignore_fields:
    fields of a config.json that hermes does not know and that are to be passed over. Raises
    MalError, SpecError, HermesError, CheckpointError, StorageError.
    """
    located, notes = locate_architecture(source)
    ignore = tuple(ignore_fields)
    is_text = isinstance(located, str) and "{" in located
    path = None if is_text else Path(located)
    foreign = _read_foreign(path, ignore) if path else None
    if ignore and foreign is None:
        raise HermesError(
            f"{located} has no config.json, whose fields ignore_fields passes over; leave it out"
        )
    folder = path if path and path.is_dir() else None
    return FoundArchitecture(foreign or mal.load(located), folder, foreign is not None, notes)


def locate_architecture(
    source: str | os.PathLike[str],
) -> tuple[str | os.PathLike[str], tuple[str, ...]]:
    """Find the path on this machine of what is named, with notes for the user.

    A bundled name and MAL text stay as they are. Raises HermesError, CheckpointError, StorageError.
    """
    if isinstance(source, str) and "{" in source:
        return source, ()
    path, located = Path(source), source
    notes: tuple[str, ...] = ()
    if not path.exists() and (path.suffix or len(path.parts) > 1):
        # These take a while to import.
        from hermes.interop.hub import describe_missing_model, is_hub_repo, resolve_hub_path

        found, notes = resolve_hub_path(source)
        if found != path:
            path = located = found
        elif is_hub_repo(path) and path.suffix not in FILES:
            raise HermesError(describe_missing_model(path))
    if path.is_dir() and not (path / SPEC).is_file():
        from hermes.checkpoint import list_steps

        steps = list_steps(path)
        return (steps[0][1] if steps else located), notes
    return located, notes


def _read_foreign(path: Path, ignore: tuple[str, ...]) -> ModelSpec | None:
    """Read the model of another tool's files; None if the path names none."""
    if path.is_dir() and not (path / SPEC).is_file():
        if not (path / CONFIG).is_file():
            return _read_torch(path, ignore) if (path / LITGPT).is_file() else None
        path = path / CONFIG
    if not path.is_file():
        return None
    if path.suffix == ".json":
        return _read_config(path, ignore)
    if path.suffix == ".safetensors":
        return _read_config_beside(path, ignore)
    return _read_torch(path, ignore) if path.suffix in TORCH else None


def _read_config(path: Path, ignore: tuple[str, ...]) -> ModelSpec:
    """Read a config.json, of whatever name. Raises SpecError, HermesError, CheckpointError."""
    from hermes.interop.companions import name_file, parse_object
    from hermes.interop.huggingface.config_reader import read_any_config
    from hermes.storage.reading import read_small

    values = parse_object(read_small(path), str(path))
    if path.name != CONFIG and "model_type" not in values:
        raise HermesError(
            f"{path} has no 'model_type', so it is no config.json of a model; name the model's "
            "folder, its config.json or a .mal file"
        )
    with name_file(path):
        return read_any_config(values, ignore).spec


def _read_config_beside(path: Path, ignore: tuple[str, ...]) -> ModelSpec:
    """Read the architecture beside a file of weights. Raises HermesError where there is none."""
    if path.with_name(SPEC).is_file():
        return mal.load(path.with_name(SPEC))
    if not path.with_name(CONFIG).is_file():
        raise HermesError(
            f"{path} holds weights only, and no {CONFIG} lies beside it; name the model's .mal "
            f"file or {CONFIG}"
        )
    return _read_config(path.with_name(CONFIG), ignore)


def _read_torch(path: Path, ignore: tuple[str, ...]) -> ModelSpec:
    """Read the architecture of a file of torch.save or of litgpt's folder."""
    from hermes.interop.open_model import open_model

    return open_model(path, ignore_fields=ignore).spec

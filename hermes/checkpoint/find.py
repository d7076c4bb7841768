"""Finds a run's checkpoints and the newest one that is whole."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hermes.checkpoint.compatibility import require_model
from hermes.checkpoint.layout import CONFIG, Companions
from hermes.checkpoint.manifest import MANIFEST, NewerFormat
from hermes.checkpoint.reader import Checkpoint, open_checkpoint
from hermes.checkpoint.weights import match_to_spec, read_weights
from hermes.errors import CheckpointError, StorageError
from hermes.spec import ModelSpec
from hermes.storage.durable import TEMPORARY
from hermes.storage.path_kinds import describe_kind, say_kind
from hermes.storage.reading import list_folder

__all__ = [
    "Search",
    "SkippedCheckpoint",
    "find_newest",
    "has_unfinished",
    "list_steps",
    "locate",
    "open_checkpoints",
    "resolve_run_name",
]

EPOCH = re.compile(r"checkpoint_epoch_(\d{1,9})\.safetensors\Z")
STEP = re.compile(r"step-(\d{8,18})\Z")
# Another process may delete checkpoints while this one looks, so a search may have to start anew.
ATTEMPTS = 100


def list_steps(run: Path) -> list[tuple[int, Path]]:
    """List a run's checkpoint folders with their steps, highest first; [] where there is no run.

    Goes by names only; `verify` says whether they are whole. Raises StorageError.
    """
    if not run.is_dir():
        return []
    found = [(STEP.match(entry.name), entry) for entry in list_folder(run)]
    return sorted(((int(m[1]), path) for m, path in found if m), reverse=True)


def resolve_run_name(path: Path) -> Path:
    """The checkpoint that RUN/checkpoint_epoch_N.safetensors or RUN/config.json stands for.

    Other tools write such files. There are none in a run of hermes: the first name stands for the
    first checkpoint that is saved after epoch N, which --save-every-epoch makes, and config.json,
    which all checkpoints of a run share, for the newest. Any other path is returned as it is.
    Raises CheckpointError where no checkpoint is of that epoch.
    """
    found = EPOCH.match(path.name)
    if found is None and path.name != CONFIG:
        return path
    if path.exists() or not (folders := list_steps(path.parent)):
        return path
    if found is None:
        return folders[0][1]
    epoch, saved = int(found[1]), {}
    for step, folder in folders:
        try:
            saved[step] = open_checkpoint(folder, hashes=False).progress.epoch, folder
        except (CheckpointError, StorageError):
            continue
    steps = [step for step, (done, _) in saved.items() if done == epoch]
    if not steps:
        epochs = sorted({done for done, _ in saved.values()})
        raise CheckpointError(
            f"{path}: run {path.parent} has no checkpoint after epoch {epoch}; it has some after "
            f"{', '.join(map(str, epochs))}; train with --save-every-epoch"
        )
    return saved[min(steps)][1]


def has_unfinished(run: Path) -> bool:
    """Whether a checkpoint is being written, or was when its process was killed."""
    return any(run.glob(f"{TEMPORARY}step-*"))


@dataclass(frozen=True)
class SkippedCheckpoint:
    """A checkpoint that could not be opened, and why."""

    path: Path
    reason: str
    error: CheckpointError | StorageError = field(compare=False, repr=False)

    @property
    def damaged(self) -> bool:
        """Whether its contents are lost, unlike those of a newer format or that may not be read."""
        return not isinstance(self.error, NewerFormat | StorageError)


@dataclass(frozen=True)
class Search:
    """The newest whole checkpoint or None, and the newer ones that were skipped."""

    checkpoint: Checkpoint | None
    skipped: tuple[SkippedCheckpoint, ...]


def open_checkpoints(run: Path, *, hashes: bool = True) -> Iterator[Checkpoint | SkippedCheckpoint]:
    """Open each checkpoint of a run, newest first, or say why it could not be opened.

    Raises StorageError where the run's folder cannot be read.
    """
    for step, path in list_steps(run):
        try:
            checkpoint = open_checkpoint(path, hashes=hashes)
            manifest = checkpoint.manifest
            if manifest is None or manifest.step != step:
                found = manifest.step if manifest else None
                raise CheckpointError(f"checkpoint {path} is of step {found}; rename it back")
        except (CheckpointError, StorageError) as error:
            yield SkippedCheckpoint(path, str(error), error)
        else:
            yield checkpoint


def find_newest(run: Path, *, hashes: bool = True) -> Search:
    """Find the newest checkpoint of a run that is whole.

    Raises NewerFormat where a later hermes wrote a newer one and StorageError where one cannot be
    read: resuming from an older one would lose its progress.
    """
    for _ in range(ATTEMPTS):
        skipped: list[SkippedCheckpoint] = []
        for found in open_checkpoints(run, hashes=hashes):
            if isinstance(found, Checkpoint):
                return Search(found, tuple(skipped))
            if not found.damaged:
                raise found.error
            skipped.append(found)
        # One that vanished was deleted by another process, which has a newer one: look again.
        if all(skip.path.exists() for skip in skipped):
            break
    return Search(None, tuple(skipped))


def locate(
    path: Path, *, spec: ModelSpec | None = None, hashes: bool = True
) -> tuple[Checkpoint, tuple[SkippedCheckpoint, ...]]:
    """Open the checkpoint that --checkpoint names; return it and the ones that were skipped.

    path: a checkpoint folder; a run, for its newest whole checkpoint; or a bare .safetensors file,
    whose architecture is `spec`. A checkpoint with an architecture of its own must agree with
    `spec`, if that is given. Raises CheckpointError, StorageError.
    """
    if path.is_file():
        if spec is None and path.suffix != ".safetensors":
            raise CheckpointError(f"{say_kind(path)}; give a run or a checkpoint")
        if spec is None:
            raise CheckpointError(f"{path} holds weights only; name their model with --config")
        params = match_to_spec(read_weights(path), spec, str(path))
        return Checkpoint(path, spec, params, companions=Companions()), ()
    skipped: tuple[SkippedCheckpoint, ...] = ()
    if (path / MANIFEST).exists() or not list_steps(path):
        if not path.exists():
            raise CheckpointError(f"{path}: no such file or folder; check the name")
        if not (path / MANIFEST).exists():
            kind = describe_kind(path)
            what = f"{kind}, and neither" if kind else "neither"
            raise CheckpointError(f"{path} is {what} a checkpoint nor a run: it has no {MANIFEST}")
        checkpoint = open_checkpoint(path, hashes=hashes)
    else:
        search = find_newest(path, hashes=hashes)
        skipped = search.skipped
        if search.checkpoint is None:
            raise CheckpointError(f"run {path} has no whole checkpoint; {skipped[0].reason}")
        checkpoint = search.checkpoint
    if spec is not None:
        advice = "leave --config out to use the checkpoint's own"
        require_model(checkpoint.path, checkpoint.spec, spec, advice)
    return checkpoint, skipped

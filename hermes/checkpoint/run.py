"""Which checkpoints a run has, which is the newest whole one, and which are kept."""

import dataclasses
import math
import re
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from hermes.checkpoint.durable import Disk, delete_folder
from hermes.checkpoint.files import read_small, unreadable
from hermes.checkpoint.layout import PROGRESS, TEMPORARY, TRASH, Companions
from hermes.checkpoint.manifest import MANIFEST, Manifest, NewerFormat
from hermes.checkpoint.opening import Checkpoint, open_checkpoint, verify
from hermes.checkpoint.progress import read_progress
from hermes.checkpoint.weights import fit, read_weights
from hermes.errors import CheckpointError, HermesError
from hermes.spec import ModelSpec

__all__ = [
    "Keep",
    "Search",
    "Skipped",
    "checkpoints",
    "locate",
    "newest",
    "prune",
    "steps",
    "sweep",
]

STEP = re.compile(r"step-(\d{8,18})\Z")
LOOKS = 100


def steps(run: Path) -> list[tuple[int, Path]]:
    """The checkpoint folders of a run by step, the highest first; none where there is no run.

    By name only: whether they are whole is for `verify` to say. Raises StorageError.
    """
    try:
        found = [(STEP.match(entry.name), entry) for entry in run.iterdir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise unreadable(run, error) from error
    return sorted(((int(m[1]), path) for m, path in found if m), reverse=True)


@dataclass(frozen=True)
class Skipped:
    """A checkpoint that could not be taken, and the sentence that says why."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Search:
    """The newest whole checkpoint, None where there is none, and the newer ones passed over."""

    checkpoint: Checkpoint | None
    skipped: tuple[Skipped, ...]


def checkpoints(run: Path, *, hashes: bool = True) -> Iterator[Checkpoint | Skipped]:
    """Each checkpoint of a run, opened, or why it could not be; the newest first.

    Raises NewerFormat where a later hermes wrote one: to go on from one before it would lose what
    it has. Raises StorageError.
    """
    for step, path in steps(run):
        try:
            checkpoint = open_checkpoint(path, hashes=hashes)
            manifest = checkpoint.manifest
            if manifest is None or manifest.step != step:
                there = manifest.step if manifest else None
                raise CheckpointError(f"checkpoint {path} is of step {there}; rename it back")
        except NewerFormat:
            raise
        except CheckpointError as error:
            yield Skipped(path, str(error))
        else:
            yield checkpoint


def newest(run: Path, *, hashes: bool = True) -> Search:
    """Look for the newest checkpoint of a run that is whole. Raises as `checkpoints` does."""
    for _ in range(LOOKS):
        skipped: list[Skipped] = []
        for found in checkpoints(run, hashes=hashes):
            if isinstance(found, Checkpoint):
                return Search(found, tuple(skipped))
            skipped.append(found)
        # One that another process deleted meanwhile is no loss: it had a newer one.
        if all(skip.path.exists() for skip in skipped):
            break
    return Search(None, tuple(skipped))


def locate(
    path: Path, *, spec: ModelSpec | None = None, hashes: bool = True
) -> tuple[Checkpoint, tuple[Skipped, ...]]:
    """What --checkpoint names, and what was passed over on the way to it.

    A checkpoint folder; a run, for its newest whole checkpoint; or a bare .safetensors file, whose
    architecture `spec` must tell. Where a checkpoint has its own, `spec` must be the same model.
    Raises CheckpointError, StorageError.
    """
    if path.is_file():
        if spec is None:
            raise CheckpointError(f"{path} is weights alone; say with --config of which model")
        params = fit(read_weights(path), spec, str(path))
        return Checkpoint(path, spec, params, companions=Companions()), ()
    skipped: tuple[Skipped, ...] = ()
    if (path / MANIFEST).exists() or not steps(path):
        if not path.exists():
            raise CheckpointError(f"there is no checkpoint {path}")
        if not (path / MANIFEST).exists():
            raise CheckpointError(f"{path} is no checkpoint and no run: it has no {MANIFEST}")
        checkpoint = open_checkpoint(path, hashes=hashes)
    else:
        search = newest(path, hashes=hashes)
        skipped = search.skipped
        if search.checkpoint is None:
            raise CheckpointError(f"run {path} has no whole checkpoint; {skipped[0].reason}")
        checkpoint = search.checkpoint
    if spec is not None:
        require_model(checkpoint.spec, spec)
    return checkpoint, skipped


def require_model(there: ModelSpec, here: ModelSpec) -> None:
    """Refuse weights of another model, naming the first difference. Raises CheckpointError."""
    if there.identity == here.identity:
        return
    difference = _difference("", _plain(there), _plain(here)) or "the shape differs"
    raise CheckpointError(f"checkpoint was written for another model: {difference}")


def _plain(spec: ModelSpec) -> dict[str, object]:
    """What decides the model's numbers, by name: every derived field filled in."""
    resolved = dataclasses.replace(
        spec, output=dataclasses.replace(spec.output, norm=spec.final_norm)
    )
    fields = ("vocab_size", "max_seq_len", "hidden_size", "num_layers", "embeddings", "output")
    plain = {name: getattr(resolved, name) for name in fields}
    layers = {f"layers.{i}": layer for i, layer in enumerate(spec.layers)}
    return plain | layers | {"learned_positions": spec.learned_positions}


def _difference(name: str, there: object, here: object) -> str:
    if there == here:
        return ""
    if dataclasses.is_dataclass(there) and type(there) is type(here):
        there, here = vars(there), vars(here)
    if isinstance(there, dict) and isinstance(here, dict):
        pairs = ((key, there[key], here.get(key)) for key in there)
        return next(filter(None, (_difference(f"{name}.{k}", a, b) for k, a, b in pairs)), "")
    return f"{name.removeprefix('.')} {there} there, {here} here"


@dataclass(frozen=True)
class Keep:
    """Which checkpoints of a run stay, once a newer one is whole; all of them by default.

    last: the newest N. every: those whose step M divides. best: the one with the lowest value of
    that metric. What any of them keeps stays; with `every` or `best` alone the newest 2 do too.
    """

    last: int | None = None
    every: int | None = None
    best: str | None = None

    def __post_init__(self) -> None:
        for name, value in (("keep-last", self.last), ("keep-every", self.every)):
            if value is not None and value < 1:
                raise HermesError(f"--{name} must be at least 1, got {value}")

    @property
    def everything(self) -> bool:
        """Whether nothing is ever deleted."""
        return self.last is None and self.every is None and self.best is None


def prune(run: Path, keep: Keep, current: Path, *, disk: Disk | None = None) -> list[Path]:
    """Delete the checkpoints of a run that `keep` does not keep, and return them.

    Nothing is deleted unless `current`, the one just written, verifies from disk. Only whole
    checkpoints of the same run id count, and only they are deleted, oldest first. Raises
    CheckpointError, StorageError.
    """
    if keep.everything:
        return []
    disk = disk or Disk()
    ours = _whole(run, verify(current).run)
    kept = {current.name, *_kept(keep, ours)}
    doomed = [path for _, path in reversed(ours) if path.name not in kept]
    for path in doomed:
        trash = run / f"{TRASH}{path.name}-{secrets.token_hex(4)}"
        disk.rename(path, trash)
        disk.sync_folder(run)
        delete_folder(trash, disk)
    return doomed


def _whole(run: Path, run_id: str) -> list[tuple[Manifest, Path]]:
    """The checkpoints of one run id that look whole, the newest first."""
    found = []
    for step, path in steps(run):
        try:
            manifest = verify(path, hashes=False)
        except CheckpointError:
            continue
        if manifest.run == run_id and manifest.step == step:
            found.append((manifest, path))
    return found


def _kept(keep: Keep, ours: Iterable[tuple[Manifest, Path]]) -> set[str]:
    ours = list(ours)
    last = 2 if keep.last is None else keep.last
    kept = {path.name for _, path in ours[:last]}
    if keep.every is not None:
        kept |= {path.name for manifest, path in ours if manifest.step % keep.every == 0}
    if keep.best is not None:
        scored = [(_metric(path, manifest, keep.best), path.name) for manifest, path in ours]
        value, name = min(scored, default=(math.inf, ""))
        kept |= {name} if value < math.inf else set()
    return kept


def _metric(path: Path, manifest: Manifest, name: str) -> float:
    """The metric of a checkpoint, infinity where it has none."""
    if PROGRESS not in manifest.files:
        return math.inf
    where = path / PROGRESS
    progress = read_progress(read_small(where), str(where), manifest.version)
    return progress.metrics.get(name, math.inf)


def sweep(run: Path, *, disk: Disk | None = None) -> None:
    """Delete what an interrupted save or deletion left. Only for the holder of the run's lock."""
    if not run.exists():
        return
    disk = disk or Disk()
    for path in sorted(run.iterdir()):
        if path.name.startswith((TEMPORARY, TRASH)) and path.is_dir() and not path.is_symlink():
            delete_folder(path, disk)

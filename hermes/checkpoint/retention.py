"""Deletes old checkpoints of a run, and what interrupted saves left behind."""

import secrets
from dataclasses import dataclass
from pathlib import Path

from hermes.checkpoint.find import list_steps
from hermes.checkpoint.layout import PROGRESS, TRASH
from hermes.checkpoint.manifest import Manifest
from hermes.checkpoint.progress import read_progress
from hermes.checkpoint.reader import verify
from hermes.errors import CheckpointError, HermesError
from hermes.storage.durable import TEMPORARY, Disk, delete_folder
from hermes.storage.reading import list_folder, read_small

__all__ = ["RetentionPolicy", "prune", "sweep"]

# Metrics whose names end so are better when higher; all others when lower.
MORE_IS_BETTER = ("accuracy", "reward_margin", "chosen_reward", "chosen_logprob")


@dataclass(frozen=True)
class RetentionPolicy:
    """Which checkpoints of a run are kept; all of them by default.

    last: the newest `last`. every: those whose step is a multiple of `every`. best: the one with
    the best value of that metric (the lowest, except for MORE_IS_BETTER); while no checkpoint has
    the metric, all. A checkpoint is kept if any of the three keeps it. With `every` or `best`
    alone, the newest 2 are kept as well.
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
        """Whether no checkpoint is ever deleted."""
        return self.last is None and self.every is None and self.best is None


def prune(
    run: Path, keep: RetentionPolicy, current: Path, *, disk: Disk | None = None
) -> list[Path]:
    """Delete the checkpoints of a run that `keep` does not keep; return them.

    First verifies `current`, the one just written, from disk. Only whole checkpoints of the same
    run id are considered and deleted, oldest first. Raises CheckpointError, StorageError.
    """
    if keep.everything:
        return []
    disk = disk or Disk()
    ours = _list_whole(run, verify(current).run)
    kept = {current.name, *_select_kept(keep, ours)}
    doomed = [path for _, path in reversed(ours) if path.name not in kept]
    for path in doomed:
        # Renamed first: half a deletion must not leave a damaged folder under a step's name.
        trash = run / f"{TRASH}{path.name}-{secrets.token_hex(4)}"
        disk.rename(path, trash)
        disk.sync_folder(run)
        delete_folder(trash, disk)
    return doomed


def _list_whole(run: Path, run_id: str) -> list[tuple[Manifest, Path]]:
    """List the checkpoints of one run id that are whole by names and sizes, newest first."""
    found = []
    for step, path in list_steps(run):
        if path.is_symlink():
            continue  # its target belongs to someone else
        try:
            manifest = verify(path, hashes=False)
        except CheckpointError:
            continue
        if manifest.run == run_id and manifest.step == step:
            found.append((manifest, path))
    return found


def _select_kept(keep: RetentionPolicy, ours: list[tuple[Manifest, Path]]) -> set[str]:
    last = 2 if keep.last is None else keep.last
    kept = {path.name for _, path in ours[:last]}
    if keep.every is not None:
        kept |= {path.name for manifest, path in ours if manifest.step % keep.every == 0}
    if keep.best is not None:
        kept |= _select_best(keep.best, ours)
    return kept


def _select_best(metric: str, ours: list[tuple[Manifest, Path]]) -> set[str]:
    """Select the earliest of the best checkpoints, and those whose metrics cannot be read.

    Where no checkpoint has the metric, its name may be a typo, so all are selected.
    """
    scored, unknown = [], set()
    sign = -1 if metric.endswith(MORE_IS_BETTER) else 1
    for manifest, path in ours:
        try:
            where = path / PROGRESS
            metrics = read_progress(read_small(where), str(where), manifest.version).metrics
            if metric in metrics:
                scored.append((sign * metrics[metric], manifest.step, path.name))
        except CheckpointError:
            unknown.add(path.name)
    if not scored:
        return {path.name for _, path in ours}
    return unknown | {min(scored)[2]}


def sweep(run: Path, *, disk: Disk | None = None) -> None:
    """Delete what interrupted saves and deletions left. The caller holds the run's lock."""
    if not run.exists():
        return
    disk = disk or Disk()
    for path in list_folder(run):
        if path.is_symlink():
            continue
        if path.name.startswith((TEMPORARY, TRASH)) and path.is_dir():
            delete_folder(path, disk)
        elif path.name.startswith(TEMPORARY) and path.is_file():
            disk.delete(path)

"""Checkpoints: written whole or not at all, verified when read, the same for every backend."""

from hermes.checkpoint.durable import Disk, Operation
from hermes.checkpoint.layout import Companions, step_name
from hermes.checkpoint.lock import RunLock
from hermes.checkpoint.manifest import Manifest, NewerFormat
from hermes.checkpoint.opening import Checkpoint, open_checkpoint, verify
from hermes.checkpoint.progress import Progress
from hermes.checkpoint.retention import Keep, prune, sweep
from hermes.checkpoint.run import (
    Search,
    Skipped,
    being_written,
    checkpoints,
    locate,
    newest,
    steps,
)
from hermes.checkpoint.same import require_model
from hermes.checkpoint.saver import Saver, snapshot
from hermes.checkpoint.tensors import Kind, TensorFile
from hermes.checkpoint.writing import save

__all__ = [
    "Checkpoint",
    "Companions",
    "Disk",
    "Keep",
    "Kind",
    "Manifest",
    "NewerFormat",
    "Operation",
    "Progress",
    "RunLock",
    "Saver",
    "Search",
    "Skipped",
    "TensorFile",
    "being_written",
    "checkpoints",
    "locate",
    "newest",
    "open_checkpoint",
    "prune",
    "require_model",
    "save",
    "snapshot",
    "step_name",
    "steps",
    "sweep",
    "verify",
]

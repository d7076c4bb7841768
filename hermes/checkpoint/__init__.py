"""Checkpoints: written whole or not at all, verified when read, the same for every backend."""

from hermes.checkpoint.async_saver import Saver, snapshot
from hermes.checkpoint.compatibility import require_model
from hermes.checkpoint.find import (
    Search,
    Skipped,
    being_written,
    checkpoints,
    locate,
    newest,
    steps,
)
from hermes.checkpoint.layout import Companions, step_name
from hermes.checkpoint.manifest import Manifest, NewerFormat
from hermes.checkpoint.progress import Progress
from hermes.checkpoint.reader import Checkpoint, open_checkpoint, verify
from hermes.checkpoint.retention import Keep, prune, sweep
from hermes.checkpoint.run_lock import RunLock
from hermes.checkpoint.writer import save
from hermes.storage.durable import Disk, Operation
from hermes.storage.safetensors import Kind, TensorFile

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

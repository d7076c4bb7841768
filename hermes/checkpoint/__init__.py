"""Checkpoints: written whole or not at all, verified when read, the same for all backends."""

from hermes.checkpoint.async_saver import Saver, copy_state
from hermes.checkpoint.compatibility import require_model
from hermes.checkpoint.find import (
    Search,
    SkippedCheckpoint,
    find_newest,
    has_unfinished,
    list_steps,
    locate,
    open_checkpoints,
)
from hermes.checkpoint.layout import Companions, name_step_folder
from hermes.checkpoint.manifest import Manifest, NewerFormat
from hermes.checkpoint.progress import Progress
from hermes.checkpoint.reader import Checkpoint, open_checkpoint, verify
from hermes.checkpoint.retention import RetentionPolicy, prune, sweep
from hermes.checkpoint.run_lock import RunLock
from hermes.checkpoint.size import count_checkpoint_bytes
from hermes.checkpoint.writer import save
from hermes.storage.durable import Disk, Operation
from hermes.storage.safetensors import TensorFile, TensorInfo

__all__ = [
    "Checkpoint",
    "Companions",
    "Disk",
    "Manifest",
    "NewerFormat",
    "Operation",
    "Progress",
    "RetentionPolicy",
    "RunLock",
    "Saver",
    "Search",
    "SkippedCheckpoint",
    "TensorFile",
    "TensorInfo",
    "copy_state",
    "count_checkpoint_bytes",
    "find_newest",
    "has_unfinished",
    "list_steps",
    "locate",
    "name_step_folder",
    "open_checkpoint",
    "open_checkpoints",
    "prune",
    "require_model",
    "save",
    "sweep",
    "verify",
]

"""Writes the folder of a model, whole or not at all, one tensor at a time."""

import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from hermes.checkpoint import Disk, Manifest, TensorInfo
from hermes.checkpoint.manifest import MANIFEST
from hermes.checkpoint.weights import INDEX, MODEL, SHARD_LIMIT, plan_shards, render_index
from hermes.errors import HermesError
from hermes.interface import Tensors
from hermes.storage.addresses import require_local
from hermes.storage.durable import write_file, write_folder_atomically
from hermes.storage.safetensors import compute_file_size, encode_tensors
from hermes.storage.space import require_space

__all__ = ["require_new_folder", "write_folder"]


def require_new_folder(target: Path) -> None:
    """Refuse a folder for a model that is not new or empty. Raises HermesError."""
    require_local(target, "models")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise HermesError(f"{target} already exists; choose another name or remove it")


def write_folder(
    target: Path,
    tensors: Tensors,
    kinds: Mapping[str, TensorInfo],
    files: Mapping[str, bytes],
    *,
    shard_limit: int = SHARD_LIMIT,
    weights: str = MODEL,
    run: str | None = None,
    check: Callable[[Path], None] = lambda _: None,
    disk: Disk | None = None,
) -> int:
    """Write weights and small files as the folder `target`, and return its size in bytes.

    target must be new or an empty folder. weights: the name of the file of weights, which is
    sharded only under its usual name. run: id of a run, to add a manifest that makes the folder a
    checkpoint of that run at step 0; None for no manifest. check: called with the complete folder
    before it gets its name; if it raises, nothing is left. Raises StorageError, NonFinite,
    HermesError.
    """
    disk = disk or Disk()
    require_new_folder(target)
    shards: Mapping[str, Mapping[str, TensorInfo]]
    shards = plan_shards(kinds, shard_limit) if weights == MODEL else {weights: kinds}
    small = dict(files) | ({INDEX: render_index(shards)} if len(shards) > 1 else {})
    needed = sum(map(len, small.values())) + sum(map(compute_file_size, shards.values()))
    folder = Path(os.path.realpath(target))
    folder.parent.mkdir(parents=True, exist_ok=True)
    require_space(folder.parent, needed)
    chunks: dict[str, Iterable[bytes | memoryview]] = {n: [small[n]] for n in sorted(small)}
    chunks |= {name: encode_tensors(tensors, shard) for name, shard in shards.items()}
    with write_folder_atomically(folder, disk) as unfinished:
        _write(unfinished, chunks, run, disk)
        disk.sync_folder(unfinished)
        check(unfinished)
    return needed


def _write(
    folder: Path,
    chunks: Mapping[str, Iterable[bytes | memoryview]],
    run: str | None,
    disk: Disk,
) -> None:
    written = {name: write_file(folder / name, parts, disk) for name, parts in chunks.items()}
    if run is not None:
        write_file(folder / MANIFEST, [Manifest(run, 0, written).render()], disk)

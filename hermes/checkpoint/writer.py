"""Writes a checkpoint folder whole or not at all.

The order makes it so: the files are written, hashed and synced under a temporary name beside the
final one; then the manifest, since only a folder with a manifest counts; then the folder is synced,
renamed, and its new name synced.
"""

import math
import os
import secrets
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from hermes.checkpoint.adapters import ADAPTER, ADAPTER_CONFIG, build_adapter_files
from hermes.checkpoint.layout import OPTIMIZER, PROGRESS, SPEC, TRASH, Companions, name_step_folder
from hermes.checkpoint.manifest import MANIFEST, Manifest, NewerFormat
from hermes.checkpoint.progress import Progress, render_progress
from hermes.checkpoint.reader import verify
from hermes.checkpoint.weights import (
    INDEX,
    SHARD_LIMIT,
    TensorView,
    plan_shards,
    render_index,
)
from hermes.errors import CheckpointError, StorageError
from hermes.interface import Array, Tensors, TrainState
from hermes.mal import dumps
from hermes.numerics.lora import list_adapter_tensors
from hermes.numerics.params import list_parameters
from hermes.numerics.update_rules import list_state_shapes
from hermes.spec import ModelSpec
from hermes.storage.durable import (
    Disk,
    FileDigest,
    write_file,
    write_folder_atomically,
)
from hermes.storage.safetensors import TensorInfo, compute_file_size, encode_dtype, encode_tensors
from hermes.storage.space import count_free_bytes, is_full, require_space

__all__ = ["save"]


def save(
    run: Path,
    state: TrainState,
    *,
    spec: ModelSpec,
    progress: Progress,
    companions: Companions | None = None,
    shard_limit: int = SHARD_LIMIT,
    workers: int = 1,
    disk: Disk | None = None,
    make_run: bool = True,
) -> Path:
    """Write a checkpoint of `run` at progress.step; return its folder, now whole on disk.

    Tensors are materialized one at a time in this thread, or with several `workers` one in each of
    so many threads, each of which writes its own files. A whole checkpoint of the same step is
    never replaced; a damaged one is, once the new one is complete. make_run: make the run's folder
    where there is none, which a run that trains must not: it was renamed. Raises NonFinite where a
    tensor is not finite, StorageError and CheckpointError; the run is then as it was.
    """
    disk = disk or Disk()
    if progress.step != state.step:
        raise CheckpointError(
            f"step {progress.step} cannot be saved with the state of step {state.step}"
        )
    target = run / name_step_folder(progress.step)
    damaged = _is_damaged(run, target)
    small = (companions or Companions()).render()
    small[SPEC] = dumps(spec).encode("utf-8")
    small[PROGRESS] = render_progress(replace(progress, loss_scale=state.loss_scale))
    recipe = progress.recipe
    table = {
        **list_parameters(spec),
        **(list_adapter_tensors(spec, recipe.lora) if recipe.lora else {}),
    }
    infos = _infer_infos(state.params, {name: one.shape for name, one in table.items()})
    shards = plan_shards({name: infos[name] for name in list_parameters(spec)}, shard_limit)
    if len(shards) > 1:
        small[INDEX] = render_index(shards)
    tensors = [(name, state.params, infos) for name, infos in shards.items()]
    if recipe.lora:
        small[ADAPTER_CONFIG], adapter = build_adapter_files(spec, recipe.lora, infos, state.params)
        tensors.append((ADAPTER, *adapter))
    tensors.append((OPTIMIZER, *_gather_moments(state, list_state_shapes(spec, recipe))))

    needed = sum(map(len, small.values())) + sum(
        compute_file_size(infos) for _, _, infos in tensors
    )
    files = {name: encode_tensors(source, infos) for name, source, infos in reversed(tensors)}
    files |= {name: iter([memoryview(small[name])]) for name in sorted(small)}
    if make_run:
        _make_run(run, disk)
    require_space(run, needed)
    try:
        with write_folder_atomically(target, disk) as beside:
            _write_files(beside, files, progress.run, progress.step, workers, disk)
            if damaged:
                disk.rename(target, run / f"{TRASH}{target.name}-{secrets.token_hex(4)}")
    except StorageError as error:
        if not is_full(error):
            raise
        free = count_free_bytes(run)
        rest = "" if free is None else f" and {free} are free"
        raise StorageError(
            f"{error}; the checkpoint needs {needed} bytes{rest}"
        ) from error.__cause__
    return target


def _make_run(run: Path, disk: Disk) -> None:
    if not run.exists():
        _make_run(run.parent, disk)
        disk.make_folder(run)
        disk.sync_folder(run.parent)


def _is_damaged(run: Path, target: Path) -> bool:
    """Whether `target` is a damaged checkpoint. Raises CheckpointError where it is whole."""
    if not os.path.lexists(target):
        return False
    try:
        verify(target)
    except NewerFormat:
        raise
    except CheckpointError:
        return True
    raise CheckpointError(
        f"run {str(run)!r} already has step {int(target.name.removeprefix('step-'))}; "
        "choose another directory or pass --resume"
    )


def _infer_infos(tensors: Tensors, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, TensorInfo]:
    """Infer dtype and shape of each tensor from the smallest: all of a kind share a dtype."""
    if set(tensors) != set(shapes):
        odd = min(set(tensors) ^ set(shapes))
        raise CheckpointError(f"the state to save and its spec differ in tensor {odd!r}")
    if not shapes:
        return {}
    smallest = min(shapes, key=lambda name: (math.prod(shapes[name]), name))
    dtype = encode_dtype(tensors[smallest].dtype)
    return {name: TensorInfo(dtype, shape) for name, shape in shapes.items()}


def _gather_moments(
    state: TrainState, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
) -> tuple[Tensors, dict[str, TensorInfo]]:
    sources = state.slots
    if set(sources) != set(shapes):
        odd = min(set(sources) ^ set(shapes))
        raise CheckpointError(f"the state to save and its recipe differ in {odd!r}")
    infos = {
        f"{slot}.{name}": info
        for slot, held in shapes.items()
        for name, info in _infer_infos(sources[slot], held).items()
    }

    def read(stored: str) -> Array:
        slot, name = stored.split(".", 1)
        return sources[slot][name]

    return TensorView(tuple(infos), read), infos


def _write_files(
    folder: Path,
    files: Mapping[str, Iterator[memoryview]],
    run: str,
    step: int,
    workers: int,
    disk: Disk,
) -> None:
    """Write the files, then their manifest, into `folder` and sync it."""

    # A chunk is hashed in the background while it is written and the next one is made.
    with ThreadPoolExecutor(workers) as hasher:

        def write(name: str) -> FileDigest:
            return write_file(folder / name, files[name], disk, hasher)

        if workers == 1:  # only the calling thread may be allowed to read the framework's arrays
            written = list(map(write, files))
        else:
            pool = ThreadPoolExecutor(workers)
            try:
                written = list(pool.map(write, files))
            finally:
                pool.shutdown(cancel_futures=True)
    manifest = Manifest(run, step, dict(zip(files, written, strict=True))).render()
    write_file(folder / MANIFEST, [manifest], disk)
    disk.sync_folder(folder)

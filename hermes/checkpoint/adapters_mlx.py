"""mlx-lm's adapters: adapters.safetensors and adapter_config.json, as `mlx_lm.lora` writes them.

Matrices are transposed there: `PATH.lora_a` is (in, rank), `PATH.lora_b` (rank, out); of the
embeddings `lora_a` is (V, rank) and `lora_b` (rank, C). `scale` is the factor itself, not divided
by the rank; DoRA's magnitudes are `PATH.m`. With fine_tune_type full, the file holds tensors of the
model itself.
"""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hermes.checkpoint.adapter_names import AdapterNames, list_adapted_modules, strip_holders
from hermes.checkpoint.weights import FLOATS, TensorView
from hermes.errors import CheckpointError
from hermes.interface import Array, Tensors
from hermes.numerics.lora import find_adapted_paths
from hermes.numerics.merging import DOWN, MAGNITUDE, UP, Adapter
from hermes.recipe import Lora
from hermes.spec import ModelSpec
from hermes.storage.safetensors import TensorFile, TensorInfo
from hermes.storage.strict_json import Json, render_json

__all__ = ["MLX_ADAPTER", "build_mlx_files", "read_mlx_adapter"]

MLX_ADAPTER = "adapters.safetensors"
KINDS = ("lora", "dora", "full")
# mlx-lm's name, ours, and whether the two are transposed.
NAMES = (("lora_a", DOWN, True), ("lora_b", UP, True), ("m", MAGNITUDE, False))


def read_mlx_adapter(
    folder: Path, config: Mapping[str, Any], file: TensorFile, model: AdapterNames, where: str
) -> Adapter:
    """Read an adapter of mlx-lm. Raises CheckpointError."""
    kind = config.get("fine_tune_type", "lora")
    if kind not in KINDS:
        raise CheckpointError(f"{where}: fine_tune_type is {kind!r}, which hermes does not read")
    scale, rank = (1.0, 0) if kind == "full" else _read_scale(config, where)
    sources = dict(_walk_tensors(folder, file, model, kind, rank))
    paths = [name.removesuffix(f".{UP}") for name in sources if name.endswith(f".{UP}")]
    for path in paths:
        needed = (DOWN, UP, MAGNITUDE) if kind == "dora" else (DOWN, UP)
        for name in needed:
            if f"{path}.{name}" not in sources:
                raise CheckpointError(f"adapter {folder} lacks {name!r} of {path!r}")

    def read(name: str) -> Array:
        stored, transposed = sources[name]
        return np.ascontiguousarray(file[stored].T) if transposed else file[stored]

    return Adapter(TensorView(tuple(sources), read), dict.fromkeys(paths, scale))


def _read_scale(config: Mapping[str, Any], where: str) -> tuple[float, int]:
    """The factor of the update and the rank, from lora_parameters."""
    try:
        settings = config["lora_parameters"]
        scale, rank = float(settings["scale"]), int(settings["rank"])
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where} is not mlx-lm's: lora_parameters cannot be read ({error})"
        ) from None
    if not math.isfinite(scale) or rank < 1:
        raise CheckpointError(f"{where}: scale is {scale} and rank {rank}; both must be numbers")
    return scale, rank


def _walk_tensors(
    folder: Path, file: TensorFile, model: AdapterNames, kind: str, rank: int
) -> Iterator[tuple[str, tuple[str, bool]]]:
    """Our name of each tensor of the file, its own, and whether it is transposed."""
    modules = list_adapted_modules(model)
    for stored in file:
        path, _, last = stored.rpartition(".")
        path = modules.get(strip_holders(path), path)
        info = file.infos[stored]
        if kind == "full":
            # mlx-lm turns what is stored as (in, out) when it reads a model.
            name = f"{path}.{last}"
            shape, transposed = model.shapes.get(name), name in model.transposed
            shape = shape[::-1] if shape and transposed else shape
        else:
            name, shape, transposed = _find_name(path, last, model, rank)
        if shape is None:
            raise CheckpointError(
                f"adapter {folder} is of another model: it has {stored!r}, this one does not"
            )
        if info.shape != shape or info.dtype not in FLOATS:
            raise CheckpointError(
                f"adapter {folder} is of another model: {stored!r} is {info.dtype} {info.shape} "
                f"there, {shape} here"
            )
        yield name, (stored, transposed)


def _find_name(
    path: str, last: str, model: AdapterNames, rank: int
) -> tuple[str, tuple[int, ...] | None, bool]:
    """Our name of PATH.LAST, the shape it has there, and whether it is transposed."""
    shape = model.find_matrix(path)
    if shape is None:
        return path, None, False
    rows, columns = shape
    is_embedding = path == model.embedding
    match last:
        case "lora_a" if is_embedding:  # V rows: B of our update, whose rows are the tokens'
            return f"{path}.{UP}", (rows, rank), False
        case "lora_b" if is_embedding:
            return f"{path}.{DOWN}", (rank, columns), False
        case "lora_a":
            return f"{path}.{DOWN}", (columns, rank), True
        case "lora_b":
            return f"{path}.{UP}", (rank, rows), True
        case "m":
            return f"{path}.{MAGNITUDE}", (rows,), False
    return path, None, False


def build_mlx_files(
    spec: ModelSpec, lora: Lora, infos: Mapping[str, TensorInfo], params: Tensors
) -> tuple[bytes, tuple[Tensors, dict[str, TensorInfo]]]:
    """Build mlx-lm's adapter_config.json, and its adapters.safetensors with their infos."""
    paths = find_adapted_paths(spec, lora)
    keys = dict.fromkeys(path.split(".", 3)[3] for path in paths)
    config: dict[str, Json] = {
        "fine_tune_type": "dora" if lora.dora else "lora",
        "num_layers": spec.num_layers,
        "lora_parameters": {
            "rank": lora.rank,
            "scale": lora.scale,
            "dropout": lora.dropout,
            "keys": list(keys),
        },
    }
    sources: dict[str, tuple[str, bool]] = {}
    stored: dict[str, TensorInfo] = {}
    for path in paths:
        for theirs, ours, transposed in NAMES[: 3 if lora.dora else 2]:
            info = infos[f"{path}.{ours}"]
            sources[f"{path}.{theirs}"] = f"{path}.{ours}", transposed
            stored[f"{path}.{theirs}"] = TensorInfo(
                info.dtype, info.shape[::-1] if transposed else info.shape
            )

    def read(name: str) -> Array:
        ours, transposed = sources[name]
        return np.ascontiguousarray(params[ours].T) if transposed else params[ours]

    return render_json(config), (TensorView(tuple(stored), read), stored)

"""A model's tensors in one safetensors file or several shards.

Weights have the parameters' names; what the optimizer keeps has them after its slot, such as
`exp_avg.`. A
tied head is not stored; a file that holds one anyway is accepted if it equals the embedding.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from hermes.checkpoint.manifest import FILE_NAME
from hermes.errors import CheckpointError
from hermes.formatting import format_count
from hermes.interface import Array, Tensors
from hermes.numerics.params import list_parameters
from hermes.spec import ModelSpec
from hermes.storage.reading import read_small
from hermes.storage.safetensors import TensorFile, TensorInfo
from hermes.storage.strict_json import parse_json, render_json

__all__ = [
    "INDEX",
    "MODEL",
    "TensorView",
    "Weights",
    "match_to_spec",
    "plan_shards",
    "read_moments",
    "read_weight_map",
    "read_weights",
    "render_index",
    "strip_wrappers",
]

MODEL = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD_LIMIT = 5 * 10**9
FLOATS = ("F64", "F32", "F16", "BF16")

_WRAPPERS = ("_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module")
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"


class TensorView(Mapping[str, Array]):
    """A mapping of `names` to tensors, each made by `read(name)` when it is accessed."""

    def __init__(self, names: tuple[str, ...], read: Callable[[str], Array]):
        self._names = dict.fromkeys(names)
        self._read = read

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        return self._read(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def plan_shards(infos: Mapping[str, TensorInfo], limit: int) -> dict[str, dict[str, TensorInfo]]:
    """Distribute tensors over one file, or numbered files of at most `limit` bytes of data.

    Tensors stay in the order of `infos`; one larger than `limit` has a file to itself.
    """
    shards: list[dict[str, TensorInfo]] = [{}]
    used = 0
    for name, info in infos.items():
        if shards[-1] and used + info.nbytes > limit:
            shards.append({})
            used = 0
        shards[-1][name] = info
        used += info.nbytes
    if len(shards) == 1:
        return {MODEL: shards[0]}
    total = f"{len(shards):05d}"
    return {f"model-{i:05d}-of-{total}.safetensors": shard for i, shard in enumerate(shards, 1)}


def render_index(shards: Mapping[str, Mapping[str, TensorInfo]]) -> bytes:
    """Render model.safetensors.index.json, as other readers expect it."""
    size = sum(info.nbytes for shard in shards.values() for info in shard.values())
    weight_map = {name: file for file, shard in shards.items() for name in shard}
    return render_json({"metadata": {"total_size": size}, "weight_map": weight_map})


def strip_wrappers(name: str) -> str:
    """Remove what wrappers add to a parameter's name.

    torch.compile (`_orig_mod.`), checkpointing and sharding (`_checkpoint_wrapped_module.`,
    `_fsdp_wrapped_module.`), DDP (`module.`), PEFT (`base_model.model.`).
    """
    name = ".".join(part for part in name.split(".") if part not in _WRAPPERS)
    return re.sub(r"\A(module\.|base_model\.model\.(?=.*\.))+", "", name)


class Weights(Mapping[str, Array]):
    """The tensors of one or several files, by name without wrappers, each read when accessed."""

    def __init__(self, files: list[TensorFile], where: str):
        self.infos: dict[str, TensorInfo] = {}
        self._stored: dict[str, tuple[TensorFile, str]] = {}
        for file in files:
            for stored, info in file.infos.items():
                name = strip_wrappers(stored)
                if name in self._stored:
                    raise CheckpointError(f"{where} has two tensors for {name!r}")
                self.infos[name], self._stored[name] = info, (file, stored)

    def __getitem__(self, name: str) -> Array:
        file, stored = self._stored[name]
        return file[stored]

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)


def read_weights(path: Path) -> Weights:
    """Open the tensors of a .safetensors file, or of a folder with one or with shards and index.

    Raises CheckpointError, StorageError.
    """
    if not path.is_dir():
        return Weights([TensorFile(path)], str(path))
    index = path / INDEX
    if not index.exists():
        return Weights([TensorFile(path / MODEL)], str(path))
    weight_map = read_weight_map(index)
    # mlx-lm writes an index beside a single file, which it then names alone.
    if (path / MODEL).exists() and set(weight_map.values()) != {MODEL}:
        raise CheckpointError(
            f"{path} has both {MODEL} and {INDEX}, which names other files; remove the one that is "
            "stale"
        )
    files = [TensorFile(path / file) for file in sorted(set(weight_map.values()))]
    for file in files:
        for name in file:
            if weight_map.get(name) != file.path.name:
                raise CheckpointError(f"{file.path} holds {name!r}, which {index} does not say")
    for name, file_name in weight_map.items():
        if not any(name in file for file in files if file.path.name == file_name):
            raise CheckpointError(f"{index} puts {name!r} into {file_name}, which lacks it")
    return Weights(files, str(path))


def read_weight_map(index: Path) -> dict[str, str]:
    """Read an index: the file of each tensor, which must lie beside it. Raises CheckpointError."""
    body = parse_json(read_small(index), str(index))
    weight_map = body.get("weight_map") if isinstance(body, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(f"{index} has no weight_map")
    found = {}
    for name, file in weight_map.items():
        if not isinstance(file, str) or not FILE_NAME.match(file):
            raise CheckpointError(
                f"{index} puts {name!r} into {file!r}, which is not a file beside it"
            )
        found[name] = file
    return found


def match_to_spec(weights: Weights, spec: ModelSpec, where: str) -> Tensors:
    """Check that the weights are exactly the tensors of `spec`, and return those.

    Raises CheckpointError where one is missing, left over or of another shape.
    """
    table = list_parameters(spec)
    for name, tensor in table.items():
        if name not in weights:
            raise CheckpointError(_explain_missing(weights, spec, where, name))
        if weights.infos[name].shape != tensor.shape:
            raise CheckpointError(
                f"checkpoint {where}: tensor {name!r} has shape {weights.infos[name].shape}, "
                f"expected {tensor.shape}"
            )
        if weights.infos[name].dtype not in FLOATS:
            raise CheckpointError(
                f"checkpoint {where}: tensor {name!r} is {weights.infos[name].dtype}, "
                f"expected one of {', '.join(FLOATS)}"
            )
    for name in weights:
        if name == HEAD and name not in table:
            _require_tied(weights, where)
        elif name not in table:
            raise CheckpointError(
                f"checkpoint {where} has a tensor {name!r}, which its spec does not have"
            )
    return TensorView(tuple(table), weights.__getitem__)


def _explain_missing(weights: Weights, spec: ModelSpec, where: str, name: str) -> str:
    numbers = [re.match(r"model\.layers\.(\d{1,9})\.", other) for other in weights]
    stored_layers = 1 + max((int(number[1]) for number in numbers if number), default=-1)
    why = (
        f"its spec has {format_count(spec.num_layers, 'layers')}, this one {stored_layers}"
        if stored_layers != spec.num_layers
        else f"its spec {spec.name!r} needs it"
    )
    return f"checkpoint {where} has no tensor {name!r}; {why}"


def _require_tied(weights: Weights, where: str) -> None:
    same = weights.infos[HEAD] == weights.infos[EMBEDDING]
    if not same or not np.array_equal(weights[HEAD], weights[EMBEDDING]):
        raise CheckpointError(
            f"checkpoint {where} has a {HEAD!r} that differs from {EMBEDDING!r}, "
            "but the head of its spec is tied"
        )


def read_moments(
    file: TensorFile, shapes: Mapping[str, Mapping[str, tuple[int, ...]]]
) -> Mapping[str, Tensors]:
    """Read what the optimizer keeps, lazily, by slot. Raises CheckpointError.

    shapes: of slots and tensors, as `hermes.numerics.update_rules.list_state_shapes` has them.
    """
    expected = {
        f"{slot}.{name}": shape for slot, held in shapes.items() for name, shape in held.items()
    }
    for stored, shape in expected.items():
        if stored not in file:
            raise CheckpointError(f"{file.path} has no tensor {stored!r}")
        if file.infos[stored].shape != shape:
            raise CheckpointError(
                f"{file.path}: tensor {stored!r} has shape {file.infos[stored].shape}, "
                f"expected {shape}"
            )
    for stored in file:
        if stored not in expected:
            raise CheckpointError(f"{file.path} has a tensor {stored!r} that no weight has")
    return {
        slot: TensorView(tuple(held), lambda name, slot=slot: file[f"{slot}.{name}"])  # type: ignore[misc]
        for slot, held in shapes.items()
    }

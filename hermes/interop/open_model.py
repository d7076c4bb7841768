"""A model wherever it is: a checkpoint of hermes, a Hugging Face folder, weights with a config, or
a training checkpoint of nanoGPT or litgpt. All become a specification and our tensors, read one at
a time.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hermes import mal
from hermes.checkpoint import SkippedCheckpoint, list_steps, locate
from hermes.checkpoint.adapters import open_adapter
from hermes.checkpoint.layout import CONFIG, SPEC
from hermes.checkpoint.manifest import MANIFEST
from hermes.checkpoint.weights import INDEX, MODEL, read_weights
from hermes.errors import CheckpointError, HermesError
from hermes.interface import Array, LazyTensors, Tensors
from hermes.interop.companions import parse_object, read_companions
from hermes.interop.hub import resolve_hub_path
from hermes.interop.huggingface.config_reader import read_config
from hermes.interop.nanogpt_litgpt import read_litgpt, read_nanogpt
from hermes.interop.tensor_names import unpack
from hermes.interop.torch_checkpoint import TorchFile
from hermes.numerics.lora import find_adapted_paths, merge_adapters
from hermes.recipe import Lora
from hermes.spec import ModelSpec
from hermes.storage.reading import read_small

__all__ = ["StoredModel", "merge_adapter", "open_model"]

LITGPT, LITGPT_CONFIG = "lit_model.pth", "model_config.yaml"
TORCH_ENDINGS = (".pt", ".pth", ".ckpt", ".bin")
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class StoredModel:
    """A model that was found. params: our tensors, each read when asked for.

    dtypes: how each is stored, as F32 or BF16. files: what lies beside the weights for text, by
    name. ids: begin, end and padding token of its config. notes: what its reader should know.
    adapted: params are weights with adapters merged in.
    """

    path: Path
    kind: str
    spec: ModelSpec
    params: Tensors
    dtypes: Mapping[str, str]
    files: Mapping[str, bytes] = field(default_factory=dict)
    ids: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    adapted: bool = False


def merge_adapter(source: StoredModel, folder: Path) -> StoredModel:
    """The model with a PEFT adapter merged in, in float32 at least.

    folder: the adapter's, or a run's, for its newest checkpoint. Raises CheckpointError, also where
    a run of hermes trained it on other weights than these.
    """
    place, notes = resolve_hub_path(folder)
    if place.is_dir() and list_steps(place):
        found, skipped = locate(place)
        place, notes = found.path, notes + _note_skipped(skipped)
    lora, adapter = open_adapter(place, source.spec)
    if (place / MANIFEST).exists() and (place / MODEL).exists():
        _require_trained_on(source, place, lora)

    def part(name: str) -> Array:
        if name in adapter:
            return adapter[name]
        weight = source.params[name]
        return weight if weight.dtype == np.float64 else weight.astype(np.float32)

    parts = LazyTensors((*source.params, *adapter), part)
    params = merge_adapters(source.spec, parts, lora)
    return replace(source, params=params, adapted=True, notes=source.notes + notes)


def _require_trained_on(source: StoredModel, run: Path, lora: Lora) -> None:
    """Refuse a base whose adapted matrices are not those in the run's folder, rounded or not."""
    own = read_weights(run)
    for path in find_adapted_paths(source.spec, lora):
        name = f"{path}.weight"
        weight = source.params[name]
        with np.errstate(over="ignore"):  # beyond float16: it differs
            same = name in own and np.array_equal(own[name].astype(weight.dtype), weight)
        if not same:
            raise CheckpointError(
                f"adapter {run} was trained on other weights than those of {source.path}: {name!r} "
                f"differs; give the model that it was trained on, or merge --checkpoint {run} alone"
            )


def open_model(path: Path, *, config: Path | None = None) -> StoredModel:
    """Open a model, whatever wrote it.

    path: a checkpoint or run of hermes, a Hugging Face or litgpt folder, a .safetensors, or a .pt
    of training. config: its architecture where the file does not carry it, as config.json, .mal or
    litgpt's .yaml. hf://OWNER/REPO is fetched first. Raises CheckpointError, SpecError,
    StorageError, MissingBackend, and for the Hub HermesError.
    """
    found, notes = resolve_hub_path(path)
    source = _open(found, config)
    return replace(source, notes=notes + source.notes) if notes else source


def _open(path: Path, config: Path | None) -> StoredModel:
    if path.is_dir():
        if config is not None:
            raise HermesError(f"{path} is a folder, which has its own config; leave --config out")
        if (path / MANIFEST).exists() or list_steps(path):
            return _open_checkpoint(path)
        if (path / CONFIG).exists():
            return _open_folder(path)
        if (path / LITGPT).exists():
            return _open_torch(path / LITGPT, config)
        raise CheckpointError(
            f"{path} is no model hermes reads: it has no {MANIFEST}, {CONFIG} or {LITGPT}"
        )
    if not path.exists():
        raise CheckpointError(f"{path}: no such file or folder; check the name")
    if path.suffix == ".safetensors":
        return _open_weights(path, config)
    if path.suffix in TORCH_ENDINGS:
        return _open_torch(path, config)
    raise CheckpointError(
        f"{path} is no model hermes reads: a file must end in .safetensors, "
        f"{', '.join(TORCH_ENDINGS)}"
    )


def _open_checkpoint(path: Path) -> StoredModel:
    found, skipped = locate(path)
    stock = read_weights(found.path)
    stored, dtypes = unpack(stock, found.spec, "hermes", str(found.path))
    params = found.params if found.has_adapters else stored
    return StoredModel(
        found.path,
        "hermes checkpoint",
        found.spec,
        params,
        dtypes,
        read_companions(found.path),
        _read_token_ids(found.companions.config),
        _note_skipped(skipped),
        found.has_adapters,
    )


def _note_skipped(skipped: Iterable[SkippedCheckpoint]) -> tuple[str, ...]:
    return tuple(f"passed over {skip.path.name}: {skip.reason}" for skip in skipped)


def _open_folder(path: Path) -> StoredModel:
    if not (path / MODEL).exists() and not (path / INDEX).exists():
        raise CheckpointError(
            f"{path} has no {MODEL} and no {INDEX}; hermes reads weights as safetensors"
        )
    # Where a folder of hermes has lost its manifest, its MAL still says more than config.json.
    own = (path / SPEC).exists()
    spec, family, ids = _read_architecture(path / CONFIG)
    spec, family = (mal.load(path / SPEC), "hermes") if own else (spec, family)
    params, dtypes = unpack(read_weights(path), spec, family, str(path))
    kind = f"Hugging Face folder, {family}"
    return StoredModel(path, kind, spec, params, dtypes, read_companions(path), ids)


def _open_weights(path: Path, config: Path | None) -> StoredModel:
    near = path.with_name(CONFIG)
    if config is None and not near.exists():
        raise CheckpointError(f"{path} holds weights only; name their model with --config")
    spec, family, ids = _read_architecture(config or near)
    params, dtypes = unpack(read_weights(path), spec, family, str(path))
    return StoredModel(
        path, f"weights, {family}", spec, params, dtypes, read_companions(path.parent), ids
    )


def _open_torch(path: Path, config: Path | None) -> StoredModel:
    file = TorchFile(path)
    args = file.extras.get("model_args")
    near = path.with_name(LITGPT_CONFIG)
    notes: tuple[str, ...] = ()
    ids: Mapping[str, Any] = {}
    if config is None and isinstance(args, dict):
        spec, family = read_nanogpt(args), "nanogpt"
        notes = (
            "nanoGPT's gelu is read as the exact one; a checkpoint from before May 2023 meant "
            "gelu_tanh",
        )
    elif config is not None or near.exists():
        spec, family, ids = _read_architecture(config or near)
    else:
        raise CheckpointError(
            f"{path} says nothing of its architecture: it has no model_args as nanoGPT's and no "
            f"{LITGPT_CONFIG} beside it; say with --config of which model"
        )
    if "optimizer" in file.extras:
        notes += ("the optimizer's state is left behind: it is under names of its own",)
    if family == "litgpt" and any(".attn.attn." in name for name in file):
        family = "litgpt-old"
    params, dtypes = unpack(file, spec, family, str(path))
    return StoredModel(
        path, f"{family} checkpoint", spec, params, dtypes, read_companions(path.parent), ids, notes
    )


def _read_architecture(path: Path) -> tuple[ModelSpec, str, Mapping[str, Any]]:
    """Specification, layout of its tensors, and token ids, from a file of any kind of config."""
    match path.suffix:
        case ".json":
            values = parse_object(read_small(path), str(path))
            return read_config(values), values["model_type"], _read_token_ids(values)
        case ".mal":
            return mal.load(path), "hermes", {}
        case ".yaml" | ".yml":
            try:
                values = yaml.safe_load(read_small(path))
            except yaml.YAMLError as error:
                raise CheckpointError(f"{path} is no YAML: {str(error).splitlines()[0]}") from error
            if not isinstance(values, dict):
                raise CheckpointError(f"{path} must hold an object")
            return read_litgpt(values, str(path)), "litgpt", {}
    raise HermesError(f"--config {path} must end in .json, .mal or .yaml")


def _read_token_ids(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: config.get(name) for name in IDS}

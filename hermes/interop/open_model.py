"""Opens any model as a specification and our tensors, which are read one at a time.

Sources are checkpoints of hermes, Hugging Face folders, weights with a configuration, and training
checkpoints of nanoGPT and litgpt.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

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
from hermes.storage.reading import list_folder, read_small
from hermes.storage.strict_yaml import read_value_mapping

__all__ = ["StoredModel", "merge_adapter", "open_model"]

LITGPT, LITGPT_CONFIG = "lit_model.pth", "model_config.yaml"
TORCH_ENDINGS = (".pt", ".pth", ".ckpt", ".bin")
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class StoredModel:
    """A model in files.

    kind: what the files are, in words. params: our tensors, each read on access. dtypes: the code
    in which each is stored, like F32 or BF16. files: companion files by name. ids: special tokens
    of its config. notes: for the user. adapted: whether adapters are merged into params.
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
    """Merge a PEFT adapter into a model, in float32 at least.

    folder: the adapter's, or a run's, whose newest checkpoint is taken. Raises CheckpointError,
    also if a run of hermes trained the adapter on other weights.
    """
    path, notes = resolve_hub_path(folder)
    if path.is_dir() and list_steps(path):
        found, skipped = locate(path)
        path, notes = found.path, notes + _note_skipped(skipped)
    lora, adapter = open_adapter(path, source.spec)
    if (path / MANIFEST).exists() and (path / MODEL).exists():
        _require_trained_on(source, path, lora)

    def read_part(name: str) -> Array:
        if name in adapter:
            return adapter[name]
        weight = source.params[name]
        return weight if weight.dtype == np.float64 else weight.astype(np.float32)

    parts = LazyTensors((*source.params, *adapter), read_part)
    params = merge_adapters(source.spec, parts, lora)
    return replace(source, params=params, adapted=True, notes=source.notes + notes)


def _require_trained_on(source: StoredModel, run: Path, lora: Lora) -> None:
    """Refuse a base model whose adapted matrices differ from those stored with the adapter."""
    own = read_weights(run)
    for path in find_adapted_paths(source.spec, lora):
        name = f"{path}.weight"
        weight = source.params[name]
        with np.errstate(over="ignore"):  # a number beyond float16 becomes inf and so differs
            same = name in own and np.array_equal(own[name].astype(weight.dtype), weight)
        if not same:
            raise CheckpointError(
                f"adapter {run} was trained on other weights than those of {source.path}: {name!r} "
                f"differs; give the model that it was trained on, or merge --checkpoint {run} alone"
            )


def open_model(path: Path, *, config: Path | None = None) -> StoredModel:
    """Open a model of any supported kind.

    path: a checkpoint or run of hermes, a Hugging Face or litgpt folder, a .safetensors file, a
    file of torch.save, or hf://OWNER/REPO, which is downloaded first. config: the architecture,
    where the files do not have it, as config.json, .mal or litgpt's .yaml. Raises CheckpointError,
    SpecError, StorageError, MissingBackend, and for the Hub HermesError.
    """
    local, notes = resolve_hub_path(path)
    source = _open(local, config)
    notes += _note_links(local)
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
    weights = read_weights(found.path)
    stored, dtypes = unpack(weights, found.spec, "hermes", str(found.path))
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


def _note_links(path: Path) -> tuple[str, ...]:
    """Name the files of a model's folder that lie elsewhere; who sent the folder chose them.

    The cache of the Hub is made of links, from snapshots/COMMIT to blobs beside it.
    """
    if not path.is_dir():
        return ()
    inside = (path.resolve(), path.resolve().parent.parent / "blobs")
    outside = [
        entry
        for entry in list_folder(path)
        if entry.is_symlink() and not any(entry.resolve().is_relative_to(one) for one in inside)
    ]
    return tuple(f"{one} is a link to {one.resolve()}, outside of the model" for one in outside)


def _note_skipped(skipped: Iterable[SkippedCheckpoint]) -> tuple[str, ...]:
    return tuple(f"passed over {skip.path.name}: {skip.reason}" for skip in skipped)


def _open_folder(path: Path) -> StoredModel:
    if not (path / MODEL).exists() and not (path / INDEX).exists():
        raise CheckpointError(
            f"{path} has no {MODEL} and no {INDEX}; hermes reads weights as safetensors"
        )
    # A checkpoint of hermes that lost its manifest: model.mal is more exact than config.json.
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
            "nanoGPT's gelu is read as the exact one; checkpoints from before May 2023 used "
            "gelu_tanh",
        )
    elif config is not None or near.exists():
        spec, family, ids = _read_architecture(config or near)
    else:
        raise CheckpointError(
            f"{path} does not tell its architecture: it has no model_args like nanoGPT's and no "
            f"{LITGPT_CONFIG} beside it; name the architecture with --config"
        )
    if "optimizer" in file.extras:
        notes += ("the optimizer state is not converted, as it has names of its own",)
    if family == "litgpt" and any(".attn.attn." in name for name in file):
        family = "litgpt-old"
    params, dtypes = unpack(file, spec, family, str(path))
    return StoredModel(
        path, f"{family} checkpoint", spec, params, dtypes, read_companions(path.parent), ids, notes
    )


def _read_architecture(path: Path) -> tuple[ModelSpec, str, Mapping[str, Any]]:
    """Read any kind of configuration: the spec, the family of its tensor layout, and token ids."""
    match path.suffix:
        case ".json":
            values = parse_object(read_small(path), str(path))
            return read_config(values), values["model_type"], _read_token_ids(values)
        case ".mal":
            return mal.load(path), "hermes", {}
        case ".yaml" | ".yml":
            values = read_value_mapping(path)
            return read_litgpt(values, str(path)), "litgpt", {}
    raise HermesError(f"--config {path} must end in .json, .mal or .yaml")


def _read_token_ids(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: config.get(name) for name in IDS}

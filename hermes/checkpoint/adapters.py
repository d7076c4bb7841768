"""Adapters in files: the two of PEFT, which hermes writes, and those of mlx-lm, which it reads.

adapter_model.safetensors  adapter_config.json     PEFT
adapters.safetensors       adapter_config.json     mlx-lm
"""

from collections.abc import Mapping
from pathlib import Path

from hermes.checkpoint.adapters_mlx import MLX_ADAPTER, read_mlx_adapter
from hermes.checkpoint.adapters_peft import PREFIX, read_peft_adapter
from hermes.checkpoint.weights import TensorView
from hermes.errors import CheckpointError
from hermes.interface import Array, Tensors
from hermes.numerics.lora import describe_adapter, list_adapter_tensors
from hermes.numerics.merging import Adapter
from hermes.recipe import Lora
from hermes.spec import ModelSpec
from hermes.storage.reading import read_small
from hermes.storage.safetensors import TensorFile, TensorInfo
from hermes.storage.strict_json import Json, parse_json, render_json

__all__ = [
    "ADAPTER",
    "ADAPTER_CONFIG",
    "build_adapter_files",
    "has_adapter",
    "open_adapter",
    "open_own_adapter",
]

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"


def build_adapter_files(
    spec: ModelSpec, lora: Lora, infos: Mapping[str, TensorInfo], params: Tensors
) -> tuple[bytes, tuple[Tensors, dict[str, TensorInfo]]]:
    """Build adapter_config.json, and the tensors of adapter_model.safetensors with their infos."""
    names = tuple(list_adapter_tensors(spec, lora))
    found = {name.split(".")[-3] for name in names}
    config: dict[str, Json] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": [name for name in lora.targets if name in found],
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
    }
    if lora.rslora:
        config["use_rslora"] = True
    if lora.dora:
        config["use_dora"] = True
    if lora.token_ids:
        ids = list(lora.token_ids)
        # A list is of the embeddings, which a tied head follows in PEFT as here.
        tied = spec.embeddings.tie_weights
        config["trainable_token_indices"] = ids if tied else {"embed_tokens": ids, "lm_head": ids}
    stored = {f"{PREFIX}{name}": infos[name] for name in names}

    def read(name: str) -> Array:
        return params[name.removeprefix(PREFIX)]

    return render_json(config), (TensorView(tuple(stored), read), stored)


def has_adapter(folder: Path) -> bool:
    """Whether the folder holds the files of an adapter, PEFT's or mlx-lm's."""
    return (folder / ADAPTER_CONFIG).is_file() and (
        (folder / ADAPTER).is_file() or (folder / MLX_ADAPTER).is_file()
    )


def open_adapter(folder: Path, spec: ModelSpec) -> Adapter:
    """Open an adapter of a model of this architecture; its tensors are read when accessed.

    Raises CheckpointError where the adapter is of another model or uses a feature that hermes does
    not implement.
    """
    is_mlx = (folder / MLX_ADAPTER).is_file() and not (folder / ADAPTER).is_file()
    weights = MLX_ADAPTER if is_mlx else ADAPTER
    for name in (weights, ADAPTER_CONFIG):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is not an adapter: it has no {name}")
    config = _read_config(folder)
    file = TensorFile(folder / weights)
    where = str(folder / ADAPTER_CONFIG)
    if is_mlx:
        return read_mlx_adapter(folder, config, file, spec, where)
    return read_peft_adapter(folder, config, file, spec, where)


def open_own_adapter(folder: Path, spec: ModelSpec, lora: Lora) -> Tensors:
    """Open what a run of hermes has trained, by this recipe. Raises CheckpointError."""
    adapter = open_adapter(folder, spec)
    there, here = _describe(adapter), _describe(describe_adapter(spec, lora, adapter.tensors))
    if there != here:
        name = next(name for name in here if there[name] != here[name])
        raise CheckpointError(
            f"{folder / ADAPTER_CONFIG} and the recipe differ in the adapters' {name}"
        )
    return adapter.tensors


def _describe(adapter: Adapter) -> dict[str, object]:
    """All of an adapter but its numbers."""
    return {
        "tensors": set(adapter.tensors),
        "scales": dict(adapter.scales),
        "tokens": dict(adapter.token_ids),
    }


def _read_config(folder: Path) -> Mapping[str, Json]:
    where = folder / ADAPTER_CONFIG
    config = parse_json(read_small(where), str(where))
    if not isinstance(config, dict):
        raise CheckpointError(f"{where} must hold an object")
    return config

"""Adapters in files: the two of PEFT, which hermes writes, and those of mlx-lm, which it reads.

adapter_model.safetensors  adapter_config.json     PEFT
adapters.safetensors       adapter_config.json     mlx-lm
"""

from collections.abc import Mapping
from pathlib import Path

from hermes.checkpoint.adapter_names import (
    AdapterNames,
    name_own_tensors,
    split_adapter_name,
    strip_holders,
)
from hermes.checkpoint.adapters_mlx import MLX_ADAPTER, read_mlx_adapter
from hermes.checkpoint.adapters_peft import PREFIX, read_peft_adapter, remove_prefix
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
    "build_peft_config",
    "has_adapter",
    "list_adapter_modules",
    "open_adapter",
    "open_own_adapter",
]

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
OF_A_CLASS = "auto_mapping"  # a key of every config that PEFT writes


def build_adapter_files(
    spec: ModelSpec, lora: Lora, infos: Mapping[str, TensorInfo], params: Tensors
) -> tuple[bytes, tuple[Tensors, dict[str, TensorInfo]]]:
    """Build adapter_config.json, and the tensors of adapter_model.safetensors with their infos."""
    names = tuple(list_adapter_tensors(spec, lora))
    found = {name.split(".")[-3] for name in names}
    tied = spec.embeddings.tie_weights
    config = build_peft_config(
        lora,
        [name for name in lora.targets if name in found],
        embedding="embed_tokens",
        head=None if tied else "lm_head",
    )
    stored = {f"{PREFIX}{name}": infos[name] for name in names}

    def read(name: str) -> Array:
        return params[name.removeprefix(PREFIX)]

    return config, (TensorView(tuple(stored), read), stored)


def build_peft_config(
    lora: Lora,
    targets: list[str],
    patterns: Mapping[str, Mapping[str, Json]] | None = None,
    *,
    embedding: str,
    head: str | None,
    transposed: bool = False,
) -> bytes:
    """Build PEFT's adapter_config.json.

    patterns: rank_pattern and alpha_pattern, None for a run's own adapters. embedding, head: what
    has rows of tokens, None for a tied head. transposed: whether the matrices are stored as (in,
    out).
    """
    config: dict[str, Json] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list[Json](targets),
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
    }
    if patterns is not None:
        config |= {OF_A_CLASS: None, **{name: dict(values) for name, values in patterns.items()}}
    if lora.rslora:
        config["use_rslora"] = True
    if lora.dora:
        config["use_dora"] = True
    if lora.token_ids:
        ids: list[Json] = list(lora.token_ids)
        # A list is of the embeddings, which a tied head follows in PEFT as here.
        config["trainable_token_indices"] = ids if head is None else {embedding: ids, head: ids}
    return render_json(config)


def has_adapter(folder: Path) -> bool:
    """Whether the folder holds the files of an adapter, PEFT's or mlx-lm's."""
    return (folder / ADAPTER_CONFIG).is_file() and (
        (folder / ADAPTER).is_file() or (folder / MLX_ADAPTER).is_file()
    )


def open_adapter(folder: Path, spec: ModelSpec, names: AdapterNames | None = None) -> Adapter:
    """Open an adapter of a model of this architecture; its tensors are read when accessed.

    names: those of the model's tensors, which the adapter's follow; None for ours. Raises
    CheckpointError where the adapter is of another model or uses a feature that hermes does not
    implement.
    """
    is_mlx = (folder / MLX_ADAPTER).is_file() and not (folder / ADAPTER).is_file()
    weights = MLX_ADAPTER if is_mlx else ADAPTER
    for name in (weights, ADAPTER_CONFIG):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is not an adapter: it has no {name}")
    config = _read_config(folder)
    file = TensorFile(folder / weights)
    where = str(folder / ADAPTER_CONFIG)
    read = read_mlx_adapter if is_mlx else read_peft_adapter
    return read(folder, config, file, names or name_own_tensors(spec), where)


def list_adapter_modules(folder: Path) -> tuple[set[str], bool]:
    """List the modules that an adapter's files name, without the modules that hold the model.

    Also returns whether the files may be a run's own, whose names are ours whatever the class of
    the model: PEFT always writes a key into its config that a run does not.
    """
    is_peft = (folder / ADAPTER).is_file()
    names = TensorFile(folder / (ADAPTER if is_peft else MLX_ADAPTER))
    kept = (remove_prefix(name) for name in names if ".original_module." not in name)
    paths = {strip_holders(split_adapter_name(name)[0]) for name in kept}
    return paths, is_peft and OF_A_CLASS not in _read_config(folder)


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

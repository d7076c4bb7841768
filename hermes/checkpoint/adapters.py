"""LoRA adapters in PEFT's layout: adapter_model.safetensors and adapter_config.json.

PEFT prefixes the tensor names with `base_model.model.`. Which matrices have adapters is read from
the tensors, because the config can say it in several ways (names, regular expressions, "all").
"""

from collections.abc import Mapping
from pathlib import Path

from hermes.checkpoint.weights import FLOATS, TensorView
from hermes.errors import CheckpointError, HermesError
from hermes.interface import Array, Tensors
from hermes.numerics.lora import list_adapter_tensors
from hermes.recipe import Lora
from hermes.spec import ModelSpec
from hermes.storage.reading import read_small
from hermes.storage.safetensors import TensorFile, TensorInfo
from hermes.storage.strict_json import Json, parse_json, render_json

__all__ = ["ADAPTER", "ADAPTER_CONFIG", "build_adapter_files", "open_adapter"]

ADAPTER, ADAPTER_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PREFIX = "base_model.model."
# PEFT features that hermes does not implement, and the values that switch each off. Of the ways to
# initialize adapters, those not listed (PiSSA, OLoRA, ...) change the base weights.
PLAIN: Mapping[str, tuple[Json, ...]] = {
    "bias": ("none",),
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "fan_in_fan_out": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": (None, {}),
    "alpha_pattern": (None, {}),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
    "layers_to_transform": (None, []),
    "layer_replication": (None, []),
    "lora_bias": (False, None),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "alora_invocation_tokens": (None, []),
    "megatron_config": (None,),
    "use_qalora": (False, None),
    "use_bdlora": (False, None),
    "monteclora_config": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
}


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
    stored = {f"{PREFIX}{name}": infos[name] for name in names}

    def read(name: str) -> Array:
        return params[name.removeprefix(PREFIX)]

    return render_json(config), (TensorView(tuple(stored), read), stored)


def open_adapter(folder: Path, spec: ModelSpec) -> tuple[Lora, Tensors]:
    """Open an adapter of a model of this architecture; its tensors are read when accessed.

    Raises CheckpointError where the adapter is of another model or uses a feature of PEFT that
    hermes does not implement.
    """
    for name in (ADAPTER, ADAPTER_CONFIG):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder} is not an adapter: it has no {name}")
    where = folder / ADAPTER_CONFIG
    config = parse_json(read_small(where), str(where))
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        raise CheckpointError(f"{where} is not the config of a LoRA adapter")
    for key, plain in PLAIN.items():
        if key in config and config[key] not in plain:
            raise CheckpointError(f"{where}: {key} is {config[key]!r}, which hermes does not read")
    file = TensorFile(folder / ADAPTER)
    lora = _read_settings(config, file, str(where))
    expected = _list_shapes(folder, spec, lora)
    by_name = {stored.removeprefix(PREFIX): stored for stored in file}
    for name, shape in expected.items():
        if name not in by_name:
            raise CheckpointError(f"adapter {folder} is of another model: it lacks {name!r}")
        info = file.infos[by_name[name]]
        if info.shape != shape or info.dtype not in FLOATS:
            raise CheckpointError(
                f"adapter {folder} is of another model: {name!r} is {info.dtype} {info.shape} "
                f"there, {shape} here"
            )
    for name in by_name:
        if name not in expected:
            raise CheckpointError(
                f"adapter {folder} is of another model: it has {name!r}, this one does not"
            )
    return lora, TensorView(tuple(expected), lambda name: file[by_name[name]])


def _read_settings(config: Mapping[str, Json], file: TensorFile, where: str) -> Lora:
    last = {name.split(".")[-3] for name in file if name.count(".") >= 3}
    try:
        rank, alpha = config["r"], config["lora_alpha"]
        return Lora(
            rank=int(rank),
            alpha=float(alpha),
            dropout=float(config.get("lora_dropout") or 0.0),
            targets=tuple(sorted(last)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{where} cannot be read: {error}") from None
    except HermesError as error:
        raise CheckpointError(f"{where}: {error}") from None


def _list_shapes(folder: Path, spec: ModelSpec, lora: Lora) -> dict[str, tuple[int, ...]]:
    try:
        return {name: tensor.shape for name, tensor in list_adapter_tensors(spec, lora).items()}
    except HermesError as error:
        raise CheckpointError(f"adapter {folder} is of another model: {error}") from None

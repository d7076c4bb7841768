"""Writes the adapters of a run as PEFT's or mlx-lm's, and verifies what was written."""

from dataclasses import replace
from pathlib import Path

from hermes.checkpoint import Disk, locate, open_checkpoint
from hermes.checkpoint.adapters import ADAPTER, ADAPTER_CONFIG
from hermes.checkpoint.adapters_mlx import MLX_ADAPTER, build_mlx_files
from hermes.checkpoint.weights import read_weights
from hermes.errors import HermesError
from hermes.formatting import format_count
from hermes.interface import Tensors
from hermes.interop.adapters import merge_adapter
from hermes.interop.class_adapters import build_class_files
from hermes.interop.dtype import DTYPE_NAMES
from hermes.interop.huggingface.families import find_family
from hermes.interop.huggingface.inexpressible import explain_inexpressible
from hermes.interop.model_folder import write_folder
from hermes.interop.open_model import StoredModel
from hermes.interop.tensor_names import unpack
from hermes.interop.verify import Verification, verify_conversion
from hermes.numerics.lora import list_adapter_tensors
from hermes.recipe import Lora
from hermes.storage.safetensors import TensorInfo, describe_tensors

__all__ = ["ADAPTER_TARGETS", "write_adapter"]

# What `convert --to` calls them, and the tool that reads each.
ADAPTER_TARGETS = {"mlx-adapter": "mlx-lm", "peft-adapter": "PEFT"}


def write_adapter(
    model: StoredModel,
    target: Path,
    to: str,
    *,
    backend: str | None = None,
    disk: Disk | None = None,
) -> tuple[str, int, Verification]:
    """Write the adapters of a run of hermes as the folder `target`, for another tool.

    to: 'mlx-adapter' for mlx_lm's --adapter-path and a model under our tensor names, 'peft-adapter'
    for PEFT and the class that `convert --to hf` writes. The folder is merged with the run's base
    again, and must give the run's own weights and logits. Returns the dtype, the size in bytes and
    the proof. Raises HermesError where the model has no adapters, or some that the tool cannot
    express.
    """
    if not model.adapted:
        raise HermesError(f"{model.path} has no adapters; give a run that trained some")
    if find_family(model.spec, renamed=to == "peft-adapter") == "hermes":
        raise HermesError(
            f"{ADAPTER_TARGETS[to]} does not know the model of {model.path}: "
            f"{explain_inexpressible(model.spec)}"
        )
    checkpoint = open_checkpoint(locate(model.path)[0].path)
    lora, tensors = checkpoint.progress.recipe.lora, checkpoint.state.params
    assert lora is not None, "the model has adapters"
    config, (weights, stored) = _build_files(model, to, lora, tensors)
    params, dtypes = unpack(
        read_weights(checkpoint.path), model.spec, "hermes", str(checkpoint.path)
    )
    base = replace(model, params=params, dtypes=dtypes, adapted=False)
    proof: list[Verification] = []
    size = write_folder(
        target,
        weights,
        stored,
        {ADAPTER_CONFIG: config},
        weights=MLX_ADAPTER if to == "mlx-adapter" else ADAPTER,
        check=lambda folder: proof.append(
            verify_conversion(model, merge_adapter(base, folder), backend)
        ),
        disk=disk,
    )
    return DTYPE_NAMES[next(iter(stored.values())).dtype], size, proof[0]


def _build_files(
    model: StoredModel, to: str, lora: Lora, tensors: Tensors
) -> tuple[bytes, tuple[Tensors, dict[str, TensorInfo]]]:
    names = list_adapter_tensors(model.spec, lora)
    infos = describe_tensors({name: tensors[name] for name in names})
    if to == "peft-adapter":
        family = find_family(model.spec, renamed=True)
        return build_class_files(model.spec, family, lora, infos, tensors)
    if lora.token_ids:
        raise HermesError(
            f"{model.path} has trained rows of {format_count(len(lora.token_ids), 'tokens')}, "
            "which mlx-lm's adapters cannot hold; use hermes merge --to hf, whose result mlx-lm "
            "loads"
        )
    return build_mlx_files(model.spec, lora, infos, tensors)

"""Opens files written by torch.save; the only module that does, and it never runs their code.

Tensors stay on disk until they are read. PyTorch is imported when a file is opened.
"""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from hermes.checkpoint import TensorInfo
from hermes.checkpoint.weights import INDEX, MODEL, Weights, read_weight_map, read_weights
from hermes.errors import CheckpointError, MissingBackend, StorageError, explain_os_error
from hermes.formatting import name_type
from hermes.interface import Array
from hermes.storage.reading import read_start

__all__ = ["TorchFile", "has_weights", "read_folder"]

BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
CONVERTED = "model.pth"  # what litgpt convert_from_litgpt writes, under Hugging Face's names
ADAPTER = "adapter_config.json"
ZIP = b"PK\x03\x04"
CODES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
}

# The dtypes that NumPy has, too. What else is no weight of a model that hermes reads.
READABLE = (
    *CODES,
    *(f"torch.{name}" for name in ("bool", "uint8", "int8", "int16", "int32", "int64")),
)


class TorchFile(Mapping[str, Array]):
    """The model of a training checkpoint, each tensor read on access.

    The model is the dict under `model`, `state_dict` or `model_state_dict`, or the whole file.
    extras: everything else in the file, tensors included. infos: dtype and shape by name; a dtype
    that hermes does not use keeps torch's name.
    """

    def __init__(self, path: Path):
        content = _load(path)
        self.path = path
        inner = next((k for k in ("model", "state_dict", "model_state_dict") if k in content), None)
        self._tensors: dict[str, Any] = content if inner is None else content[inner]
        self.extras = {name: value for name, value in content.items() if name != inner}
        if inner is None:
            self.extras = {}
        if not isinstance(self._tensors, dict):
            raise CheckpointError(
                f"{path}: {inner!r} is {name_type(self._tensors)} and not a dict of tensors"
            )
        odd = [name for name, value in self._tensors.items() if not hasattr(value, "dtype")]
        if odd or not self._tensors:
            what = f"{odd[0]!r} is not a tensor" if odd else "it is empty"
            raise CheckpointError(f"{path} is not a dict of tensors: {what}")
        for name, value in self._tensors.items():
            if not isinstance(name, str):
                raise CheckpointError(f"{path}: {name!r} is the name of a tensor and not a text")
            if not _is_plain(value):
                raise CheckpointError(
                    f"{path}: {name!r} is not a plain dense tensor; save it as one"
                )
        self.infos = {
            name: TensorInfo(CODES.get(str(value.dtype), str(value.dtype)), tuple(value.shape))
            for name, value in self._tensors.items()
        }

    def __getitem__(self, name: str) -> Array:
        import torch

        tensor = self._tensors[name].detach()
        if reason := _explain_unreadable(tensor):
            raise CheckpointError(f"{self.path}: {name!r} {reason}")
        tensor = tensor.contiguous()
        if tensor.dtype == torch.bfloat16:
            halves: Array = tensor.view(torch.uint16).numpy()
            return np.array(halves.view(ml_dtypes.bfloat16))
        return np.array(tensor.numpy())

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


class TorchShards(Mapping[str, Array]):
    """The tensors of several files that an index names, each read on access."""

    def __init__(self, index: Path):
        weight_map = read_weight_map(index)
        files = {name: TorchFile(index.with_name(name)) for name in set(weight_map.values())}
        for name, file in weight_map.items():
            if name not in files[file].infos:
                raise CheckpointError(f"{index} puts {name!r} into {file}, which lacks it")
        self._files = {name: files[file] for name, file in weight_map.items()}
        self.infos = {name: file.infos[name] for name, file in self._files.items()}

    def __getitem__(self, name: str) -> Array:
        return self._files[name][name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)


def has_weights(path: Path) -> bool:
    """Whether a folder has weights of its own under one of the names that Hugging Face gives."""
    return any((path / name).exists() for name in (MODEL, INDEX, BIN, BIN_INDEX, CONVERTED))


def read_folder(path: Path) -> tuple[Weights | TorchFile | TorchShards, tuple[str, ...]]:
    """Open the weights of a Hugging Face folder: safetensors, else PyTorch's older files.

    Also returns notes for the user. Raises CheckpointError, StorageError, MissingBackend.
    """
    if (path / MODEL).exists() or (path / INDEX).exists():
        return read_weights(path), ()
    for name, read in ((BIN, TorchFile), (BIN_INDEX, TorchShards), (CONVERTED, TorchFile)):
        if (path / name).exists():
            note = f"the weights are read from {name}, and no code in it is run"
            return read(path / name), (note,)
    if (path / ADAPTER).exists():
        raise CheckpointError(
            f"{path} is an adapter, which belongs to another model: hermes merge --checkpoint "
            f"MODEL --adapter {path}"
        )
    raise CheckpointError(
        f"{path} has no {MODEL}, {INDEX}, {BIN} or {BIN_INDEX}; give a file of weights by its own "
        "name, with --config"
    )


def _is_plain(tensor: Any) -> bool:
    """Whether a tensor is dense and has its data: not sparse, nested or on the meta device."""
    dense = str(tensor.layout) == "torch.strided" and not tensor.is_nested
    return dense and str(tensor.device) == "cpu"


def _explain_unreadable(tensor: Any) -> str:
    """Say why a plain tensor has no array, before memory is asked for; nothing where it has."""
    if tensor.is_quantized or str(tensor.dtype) not in READABLE:
        return f"has dtype {tensor.dtype}, which hermes does not read; save it as float32"
    stored = tensor.untyped_storage().nbytes()
    if tensor.numel() * tensor.element_size() > stored:
        return (
            f"has shape {tuple(tensor.shape)} and only {stored:,} bytes in the file: it was "
            "expanded; save it .contiguous()"
        )
    return ""


def _load(path: Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise MissingBackend(
            f"{path} is a file of PyTorch, which is not installed ({error}); "
            "pip install 'hermes-llm[torch]'"
        ) from error
    if not read_start(path, len(ZIP)).startswith(ZIP):
        raise CheckpointError(
            f"{path} is not in the format of torch.save since PyTorch 1.6; save it again"
        )
    _check_crcs(path)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # broken bytes make unpickling raise any type of error
        if type(error).__name__ != "UnpicklingError":
            raise CheckpointError(
                f"cannot read {path}: it is incomplete, or not PyTorch's ({type(error).__name__})"
            ) from error
        # PyTorch's own message advises weights_only=False, which would run code from the file.
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, which could run code when loaded; "
            "save the model's state_dict by itself, or as .safetensors"
        ) from None
    if not isinstance(content, dict) or not all(isinstance(name, str) for name in content):
        raise CheckpointError(f"{path} does not hold a dict by name, so no model that hermes reads")
    return content


def _check_crcs(path: Path) -> None:
    """Check every entry of the archive by its size and CRC-32, which torch.load does not.

    Entries are read, not extracted or unpickled. Raises CheckpointError, StorageError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _check_sizes(path, archive)
            wrong = archive.testzip()
    except CheckpointError:
        raise
    except OSError as error:
        reason = explain_os_error(error)
        raise StorageError(f"cannot read {path}: {reason}") from error
    except Exception as error:  # broken bytes make zipfile raise any type of error
        raise CheckpointError(
            f"cannot read {path}: it is incomplete, or not PyTorch's ({type(error).__name__})"
        ) from error
    if wrong is not None:
        raise CheckpointError(
            f"{path} is damaged: its entry {wrong!r} does not match its CRC-32; copy it again"
        )


def _check_sizes(path: Path, archive: zipfile.ZipFile) -> None:
    """Raise CheckpointError where entries are packed or overlap, which torch.save never does."""
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise CheckpointError(
            f"{path} has compressed entries, unlike a file of torch.save; save it again"
        )
    whole, size = sum(entry.file_size for entry in entries), path.stat().st_size
    if whole > size:
        raise CheckpointError(
            f"{path} has {size:,} bytes and entries of {whole:,}, unlike a file of torch.save; do "
            "not use it"
        )

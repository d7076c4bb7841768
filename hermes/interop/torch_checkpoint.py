"""Training checkpoints in torch's own format: the one place that opens them, and never a pickle's
code.

Tensors stay on disk until they are asked for. PyTorch is imported when a file is opened.
"""

import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from hermes.checkpoint import TensorInfo
from hermes.errors import CheckpointError, MissingBackend, StorageError
from hermes.interface import Array
from hermes.storage.reading import read_start

__all__ = ["TorchFile"]

ZIP = b"PK\x03\x04"
CODES = {
    "torch.float64": "F64",
    "torch.float32": "F32",
    "torch.float16": "F16",
    "torch.bfloat16": "BF16",
}


class TorchFile(Mapping[str, Array]):
    """The model of a training checkpoint, each tensor read when asked for.

    It is the dict under `model`, `state_dict` or `model_state_dict`, or the file's own. extras:
    what else the file has, tensors included. infos: dtype and shape by name; a dtype that is no
    float of ours is told by torch's name.
    """

    def __init__(self, path: Path):
        whole = _load(path)
        self.path = path
        inner = next((k for k in ("model", "state_dict", "model_state_dict") if k in whole), None)
        self._tensors: dict[str, Any] = whole if inner is None else whole[inner]
        self.extras = {name: value for name, value in whole.items() if name != inner}
        if inner is None:
            self.extras = {}
        odd = [name for name, value in self._tensors.items() if not hasattr(value, "dtype")]
        if odd or not self._tensors:
            what = f"{odd[0]!r} is no tensor" if odd else "it has none"
            raise CheckpointError(f"{path} is no model of tensors: {what}")
        for name, value in self._tensors.items():
            if not _is_plain(value):
                raise CheckpointError(f"{path}: {name!r} is no plain tensor; save it as one")
        self.infos = {
            name: TensorInfo(CODES.get(str(value.dtype), str(value.dtype)), tuple(value.shape))
            for name, value in self._tensors.items()
        }

    def __getitem__(self, name: str) -> Array:
        import torch

        tensor = self._tensors[name].detach().contiguous()
        if tensor.dtype == torch.bfloat16:
            halves: Array = tensor.view(torch.uint16).numpy()
            return np.array(halves.view(ml_dtypes.bfloat16))
        return np.array(tensor.numpy())

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)


def _is_plain(tensor: Any) -> bool:
    """Whether its numbers are all there, in memory's order: not sparse, nested or without data."""
    dense = str(tensor.layout) == "torch.strided" and not tensor.is_nested
    return dense and str(tensor.device) == "cpu"


def _load(path: Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise MissingBackend(
            f"{path} is a file of PyTorch's, which is not installed ({error}); "
            "pip install 'hermes-llm[torch]'"
        ) from error
    if not read_start(path, len(ZIP)).startswith(ZIP):
        raise CheckpointError(f"{path} is not as torch.save writes since PyTorch 1.6; save it anew")
    _check_crcs(path)
    try:
        whole = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # unpickling raises whatever the bytes make it
        if type(error).__name__ != "UnpicklingError":
            raise CheckpointError(
                f"cannot read {path}: it is torn, or not PyTorch's ({type(error).__name__})"
            ) from error
        # PyTorch's own sentence advises to run what is in it.
        raise CheckpointError(
            f"{path} holds more than tensors and plain values, so what it holds may be code; save "
            "its model's state_dict by itself, or as .safetensors"
        ) from None
    if not isinstance(whole, dict) or not all(isinstance(name, str) for name in whole):
        raise CheckpointError(f"{path} holds no dict of names, so no model hermes reads")
    return whole


def _check_crcs(path: Path) -> None:
    """Every entry against the CRC-32 the archive has of it, which torch.load does not look at.

    Nothing is unpacked but to be summed. Raises CheckpointError.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            wrong = archive.testzip()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise StorageError(f"cannot read {path}: {reason}") from error
    except Exception as error:  # of the archive's own fields, as the bytes make it
        raise CheckpointError(
            f"cannot read {path}: it is torn, or not PyTorch's ({type(error).__name__})"
        ) from error
    if wrong is not None:
        raise CheckpointError(
            f"{path} is damaged: its entry {wrong!r} is not what its CRC-32 says; copy it anew"
        )

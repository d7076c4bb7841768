"""A strict reader and a canonical writer of the safetensors format.

A file is 8 bytes of little-endian header size, a JSON header, and the tensors' bytes without gaps
or overlaps up to the last byte. Other readers disagree about files that deviate from this, so
hermes refuses them. Equal tensors always make equal bytes. Details: `specs/checkpoint.md`.
"""

import json
import math
import os
import re
import weakref
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import DTypeLike, NDArray

from hermes.decoders import Array, Tensors
from hermes.errors import CheckpointError, NonFinite
from hermes.formatting import format_count
from hermes.storage.reading import open_file, read_into
from hermes.storage.strict_json import Json, parse_json

__all__ = [
    "TensorFile",
    "TensorInfo",
    "compute_file_size",
    "describe_tensors",
    "encode_dtype",
    "encode_tensors",
]

MAX_HEADER = 16 * 2**20
MAX_TENSORS = 100_000
MAX_DIMENSIONS = 16
LARGEST = 2**63 - 1  # bytes of an array, whose sizes of 0 are counted as 1
NAME = re.compile(r"[A-Za-z0-9._-]{1,256}\Z")
METADATA = {"format": "pt"}
CHUNK = 8 * 2**20

# In the order in which the safetensors library lays tensors out, so that both write equal files.
DTYPES: Mapping[str, np.dtype[np.generic]] = {
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
    "F32": np.dtype("<f4"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype("<f2"),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "I8": np.dtype("i1"),
    "U8": np.dtype("u1"),
    "BOOL": np.dtype("?"),
}
CODES = {dtype: code for code, dtype in DTYPES.items()}
RANK = {code: rank for rank, code in enumerate(DTYPES)}


@dataclass(frozen=True)
class TensorInfo:
    """A tensor's dtype, as the file spells it (F32, BF16, ...), and shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Its size in the file, in bytes."""
        return math.prod(self.shape) * DTYPES[self.dtype].itemsize


def encode_dtype(dtype: DTypeLike) -> str:
    """Spell a dtype as the file does. Raises CheckpointError for one that cannot be saved."""
    little = np.dtype(dtype).newbyteorder("<") if np.dtype(dtype).kind in "iuf" else np.dtype(dtype)
    if little not in CODES:
        raise CheckpointError(
            f"dtype {np.dtype(dtype).name} cannot be saved; known are {', '.join(DTYPES)}"
        )
    return CODES[little]


def describe_tensors(tensors: Tensors) -> dict[str, TensorInfo]:
    """Find dtype and shape of each tensor, materializing one at a time."""
    return {name: TensorInfo(encode_dtype(x.dtype), x.shape) for name, x in tensors.items()}


def _render_header(infos: Mapping[str, TensorInfo]) -> tuple[list[str], bytes]:
    for name in infos:
        if not NAME.match(name):
            raise CheckpointError(
                f"tensor name {name[:80]!r} cannot be saved; it must be 1 to 256 of A-Za-z0-9._-"
            )
    order = sorted(infos, key=lambda name: (RANK[infos[name].dtype], name))
    entries: dict[str, Json] = {"__metadata__": METADATA}
    start = 0
    for name in order:
        end = start + infos[name].nbytes
        entries[name] = {
            "dtype": infos[name].dtype,
            "shape": list(infos[name].shape),
            "data_offsets": [start, end],
        }
        start = end
    text = json.dumps(entries, separators=(",", ":")).encode("ascii")
    return order, text + b" " * (-len(text) % 8)


def compute_file_size(infos: Mapping[str, TensorInfo]) -> int:
    """Compute the size in bytes of the file that holds these tensors."""
    return 8 + len(_render_header(infos)[1]) + sum(info.nbytes for info in infos.values())


def _is_finite(values: NDArray[np.generic]) -> bool:
    if values.dtype == ml_dtypes.bfloat16:
        exponent = values.view(np.uint16) & np.uint16(0x7F80)
        return bool((exponent != 0x7F80).all())
    return values.dtype.kind != "f" or bool(np.isfinite(values).all())


def encode_tensors(tensors: Tensors, infos: Mapping[str, TensorInfo]) -> Iterator[memoryview]:
    """Yield the bytes of a tensor file, materializing one tensor at a time.

    Raises NonFinite where a tensor holds NaN or an infinity, CheckpointError where it differs from
    `infos`.
    """
    order, header = _render_header(infos)
    yield memoryview(len(header).to_bytes(8, "little") + header)
    for name in order:
        info, array = infos[name], tensors[name]
        if array.shape != info.shape:
            raise CheckpointError(f"tensor {name!r} has shape {array.shape}, expected {info.shape}")
        if encode_dtype(array.dtype) != info.dtype:
            raise CheckpointError(
                f"tensor {name!r} is {encode_dtype(array.dtype)}, expected {info.dtype}"
            )
        flat = np.ascontiguousarray(array).astype(DTYPES[info.dtype], copy=False).reshape(-1)
        step = CHUNK // flat.dtype.itemsize
        for start in range(0, flat.size, step):
            part = flat[start : start + step]
            if not _is_finite(part):
                raise NonFinite(f"tensor {name!r} holds NaN or an infinity and was not saved")
            yield part.view(np.uint8).data


class TensorFile(Mapping[str, Array]):
    """A tensor file whose header was checked; each tensor is read when it is accessed.

    The file stays open, so it may be renamed or deleted meanwhile. Arrays are copies, never views
    of the file. infos: dtype and shape by name.
    """

    def __init__(self, path: Path, *, max_header: int = MAX_HEADER):
        self.path = path
        self._descriptor, size = open_file(path)
        weakref.finalize(self, os.close, self._descriptor)
        self._start, entries = _read_header(self._descriptor, path, size, max_header)
        self.metadata: dict[str, str] = _check_metadata(path, entries.pop("__metadata__", {}))
        self.infos: dict[str, TensorInfo] = {}
        self._offsets: dict[str, int] = {}
        self._check(entries, size - self._start)

    def _check(self, entries: dict[str, Json], data: int) -> None:
        if len(entries) > MAX_TENSORS:
            raise CheckpointError(f"{self.path} has more than {MAX_TENSORS} tensors")
        ranges = []
        for name, entry in entries.items():
            info, start, end = _parse_entry(self.path, name, entry)
            if end - start != info.nbytes:
                raise CheckpointError(
                    f"{self.path}: tensor {name!r} of {info.dtype} and shape {info.shape} takes "
                    f"{format_count(info.nbytes, 'bytes')}, its data_offsets span {end - start}"
                )
            self.infos[name], self._offsets[name] = info, start
            ranges.append((start, end, name))
        expected = 0
        for start, end, name in sorted(ranges):
            if start != expected:
                what = "overlaps the one before" if start < expected else "leaves a gap before"
                raise CheckpointError(f"{self.path}: tensor {name!r} {what} at byte {start}")
            expected = end
        if expected != data:
            what = "is truncated" if data < expected else "has bytes that belong to no tensor"
            raise CheckpointError(
                f"{self.path} {what}: its tensors take {format_count(expected, 'bytes')}, it "
                f"holds {data:,}"
            )

    def __getitem__(self, name: str) -> Array:
        info = self.infos[name]
        array = np.empty(math.prod(info.shape), DTYPES[info.dtype])
        if array.size:
            view = array.view(np.uint8).data
            read_into(self._descriptor, view, self._start + self._offsets[name], self.path)
            if info.dtype == "BOOL" and array.view(np.uint8).max() > 1:
                raise CheckpointError(f"{self.path}: tensor {name!r} has a BOOL above 1")
        return array.reshape(info.shape)

    def __iter__(self) -> Iterator[str]:
        return iter(self.infos)

    def __len__(self) -> int:
        return len(self.infos)


def _read_header(
    descriptor: int, path: Path, size: int, max_header: int
) -> tuple[int, dict[str, Json]]:
    """Read the offset at which the data begins, and the entries of the header."""
    if size < 8:
        found = format_count(size, "bytes")
        raise CheckpointError(f"{path} is not a tensor file: it has {found}, fewer than 8")
    first = bytearray(8)
    read_into(descriptor, memoryview(first), 0, path)
    length = int.from_bytes(first, "little")
    if length > max_header:
        raise CheckpointError(
            f"{path} is not a tensor file that hermes reads: its header would have {length} bytes, "
            f"more than {max_header}"
        )
    if 8 + length > size:
        raise CheckpointError(
            f"{path} is truncated: its header has {length} bytes, the file {size}"
        )
    buffer = bytearray(length)
    read_into(descriptor, memoryview(buffer), 8, path)
    text = bytes(buffer)
    if not text.startswith(b"{") or not text.rstrip(b" ").endswith(b"}"):
        raise CheckpointError(f"{path} is not a tensor file: its header is not a JSON object")
    entries = parse_json(text, f"the header of {path}")
    assert isinstance(entries, dict), "JSON that begins with { is an object"
    return 8 + length, entries


def _check_metadata(path: Path, metadata: Json) -> dict[str, str]:
    if metadata is None:  # as the safetensors library itself reads it
        return {}
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise CheckpointError(f"{path}: __metadata__ must map strings to strings")
    return metadata


def _is_count(value: Json) -> bool:
    return type(value) is int and value >= 0


def _parse_entry(path: Path, name: str, entry: Json) -> tuple[TensorInfo, int, int]:
    """Check the types of a header entry; return the tensor's info and its first and last offset."""
    if not NAME.match(name):
        raise CheckpointError(f"{path}: tensor name {name[:80]!r} must be 1 to 256 of A-Za-z0-9._-")
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise CheckpointError(
            f"{path}: tensor {name!r} must have exactly dtype, shape and data_offsets"
        )
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPES:
        raise CheckpointError(
            f"{path}: tensor {name!r} has dtype {dtype!r}; known are {', '.join(DTYPES)}; "
            "dequantize weights of fewer bits first"
        )
    if not isinstance(shape, list) or not all(map(_is_count, shape)) or len(shape) > MAX_DIMENSIONS:
        raise CheckpointError(
            f"{path}: tensor {name!r} has shape {shape!r}; it must be a list of sizes"
        )
    if math.prod(max(size, 1) for size in shape) * DTYPES[dtype].itemsize > LARGEST:
        raise CheckpointError(
            f"{path}: tensor {name!r} has shape {tuple(shape)}, which no array can have"
        )
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(map(_is_count, offsets)):
        raise CheckpointError(
            f"{path}: tensor {name!r} has data_offsets {offsets!r}; they must be two offsets"
        )
    return TensorInfo(dtype, tuple(shape)), offsets[0], offsets[1]

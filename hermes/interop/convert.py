"""`convert`: a model from any place it can be read from, as a folder for hermes or for others."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes import mal
from hermes.checkpoint import Disk, TensorInfo
from hermes.checkpoint.compatibility import require_vocabulary
from hermes.checkpoint.layout import CONFIG, SPEC, TOKENIZER
from hermes.checkpoint.weights import SHARD_LIMIT
from hermes.errors import HermesError
from hermes.interface import Array, LazyTensors, Tensors
from hermes.interop.companions import adapt_companions
from hermes.interop.dtype import DTYPE_CODES, DTYPE_NAMES, cast
from hermes.interop.huggingface.config_writer import make_config, make_converted_config, read_config
from hermes.interop.huggingface.families import ARCHITECTURES, find_family
from hermes.interop.huggingface.inexpressible import explain_inexpressible
from hermes.interop.model_folder import write_folder
from hermes.interop.open_model import StoredModel, merge_adapter, open_model
from hermes.interop.tensor_names import make_layout, pack
from hermes.interop.verify import Verification, verify_conversion
from hermes.numerics.params import list_parameters
from hermes.spec import ModelSpec
from hermes.storage.strict_json import render_json

__all__ = ["TARGETS", "Conversion", "convert"]

TARGETS = ("hermes", "hf")


@dataclass(frozen=True)
class Conversion:
    """What a conversion read and wrote. to: whose names the tensors have; architecture: the class
    that config.json names.

    dtype: of most of the bytes; size: bytes written; notes: what the user should know.
    """

    source: StoredModel
    target: Path
    to: str
    architecture: str
    dtype: str
    size: int
    verification: Verification
    notes: tuple[str, ...]


def convert(
    source: Path,
    target: Path,
    *,
    to: str,
    dtype: str | None = None,
    config: Path | None = None,
    adapter: Path | None = None,
    backend: str | None = None,
    shard_limit: int = SHARD_LIMIT,
    on_progress: Callable[[str, float], None] = lambda stage, share: None,
    disk: Disk | None = None,
) -> Conversion:
    """Write the model at `source` as the folder `target`, whole or not at all, with a proof.

    to: 'hermes', a checkpoint of hermes; or 'hf', a folder under Hugging Face's own names. dtype:
    float32, bfloat16 or float16; None as stored. config: see `open_source`. adapter: a PEFT folder
    to merge in. on_progress: told of each stage, "writing" and "comparing", and what share of it is done.
    Tensors pass one at a time. Raises HermesError and what it is the base of.
    """
    if to not in TARGETS:
        raise HermesError(f"to is {to!r}; it must be one of {', '.join(TARGETS)}")
    if dtype is not None and dtype not in DTYPE_CODES:
        raise HermesError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPE_CODES)}")
    found = open_model(source, config=config)
    found = merge_adapter(found, adapter) if adapter else found
    if TOKENIZER in found.files:
        where = f"{TOKENIZER} of {found.path}"
        require_vocabulary(found.files[TOKENIZER], found.spec, where)
    family = find_family(found.spec, renamed=True) if to == "hf" else "hermes"
    if to == "hf" and family == "hermes":
        raise HermesError(
            f"no class of Hugging Face's computes the model of {found.path}: "
            f"{explain_inexpressible(found.spec)}; use --to hermes"
        )
    codes = {name: DTYPE_CODES[dtype] if dtype else code for name, code in found.dtypes.items()}
    params = LazyTensors(codes, lambda name: cast(found.params[name], codes[name], name))
    kinds = _plan_kinds(found.spec, family, codes)
    most = _find_main_dtype(kinds)
    files = _render_files(found, to, most)
    proof: list[Verification] = []
    size = write_folder(
        target,
        _report_progress(pack(params, found.spec, family), kinds, on_progress),
        kinds,
        files,
        shard_limit=shard_limit,
        run=secrets.token_hex(16) if to == "hermes" else None,
        check=lambda folder: proof.append(
            verify_conversion(found, open_model(folder), backend, on_progress)
        ),
        disk=disk,
    )
    architecture = ARCHITECTURES[family if to == "hf" else find_family(found.spec)]
    notes = found.notes + (_note_lost_dropout(found.spec) if to == "hf" else ())
    return Conversion(found, target, to, architecture, most, size, proof[0], notes)


def _note_lost_dropout(spec: ModelSpec) -> tuple[str, ...]:
    """A note where config.json has no word for some of the dropout, which no proof can show."""
    if not spec.has_dropout or read_config(make_converted_config(spec)).identity == spec.identity:
        return ()
    return ("Hugging Face's class has no place for all of the model's dropout, which is left out",)


def _report_progress(
    tensors: Tensors, kinds: Mapping[str, TensorInfo], on_progress: Callable[[str, float], None]
) -> Tensors:
    """The tensors, each telling when its turn has come."""
    total, done = sum(kind.nbytes for kind in kinds.values()), 0

    def made(name: str) -> Array:
        nonlocal done
        on_progress("writing", done / total)
        done += kinds[name].nbytes
        return tensors[name]

    return LazyTensors(tensors, made)


def _plan_kinds(spec: ModelSpec, family: str, codes: Mapping[str, str]) -> dict[str, TensorInfo]:
    """Dtype and shape of every tensor to be stored. Raises HermesError where parts disagree."""
    kinds = {}
    for stored in make_layout(spec, family):
        parts = {codes[part] for part in stored.parts}
        if len(parts) > 1:
            raise HermesError(
                f"{', '.join(stored.parts)} make one tensor and are stored as "
                f"{', '.join(sorted(DTYPE_NAMES[code] for code in parts))}; choose a --dtype"
            )
        kinds[stored.name] = TensorInfo(parts.pop(), stored.compute_shape(list_parameters(spec)))
    return kinds


def _find_main_dtype(kinds: Mapping[str, TensorInfo]) -> str:
    """The dtype of most of the bytes, as config.json calls it."""
    sizes: dict[str, int] = {}
    for kind in kinds.values():
        sizes[kind.dtype] = sizes.get(kind.dtype, 0) + kind.nbytes
    return DTYPE_NAMES[max(sizes, key=lambda code: sizes[code])]


def _render_files(source: StoredModel, to: str, dtype: str) -> dict[str, bytes]:
    """Everything of the folder that is not weights."""
    ids: dict[str, Any] = {name: value for name, value in source.ids.items() if value is not None}
    files = adapt_companions(source.files, ids)
    if to == "hf":
        files[CONFIG] = render_json(make_converted_config(source.spec, dtype=dtype, **ids))
    else:
        files[CONFIG] = render_json(make_config(source.spec, dtype=dtype, **ids))
        files[SPEC] = mal.dumps(source.spec).encode("utf-8")
    return files

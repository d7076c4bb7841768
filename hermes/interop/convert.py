"""`convert`: a model from any place it can be read from, as a folder for hermes or for others."""

import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermes import mal
from hermes.checkpoint import Disk, Kind
from hermes.checkpoint.compatibility import require_vocabulary
from hermes.checkpoint.layout import CONFIG, SPEC, TOKENIZER
from hermes.checkpoint.weights import SHARD_LIMIT
from hermes.errors import HermesError
from hermes.interface import Array, LazyTensors, Tensors
from hermes.interop.companions import travelling
from hermes.interop.dtype import CODES, WORDS, cast
from hermes.interop.huggingface.config_writer import config_of, converted_config_of, spec_of
from hermes.interop.huggingface.families import ARCHITECTURES, family_of
from hermes.interop.huggingface.inexpressible import misfit
from hermes.interop.model_folder import write_folder
from hermes.interop.open_model import Source, open_source, with_adapter
from hermes.interop.tensor_names import layout_of, pack
from hermes.interop.verify import Proof, prove
from hermes.numerics.params import parameters
from hermes.spec import ModelSpec
from hermes.storage.strict_json import render_json

__all__ = ["TARGETS", "Converted", "convert"]

TARGETS = ("hermes", "hf")


@dataclass(frozen=True)
class Converted:
    """What a conversion read and wrote. to: whose names the tensors have; architecture: the class
    that config.json names.

    dtype: of most of the bytes; size: bytes written; notes: what the user should know.
    """

    source: Source
    target: Path
    to: str
    architecture: str
    dtype: str
    size: int
    proof: Proof
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
    watch: Callable[[str, float], None] = lambda stage, share: None,
    disk: Disk | None = None,
) -> Converted:
    """Write the model at `source` as the folder `target`, whole or not at all, with a proof.

    to: 'hermes', a checkpoint of hermes; or 'hf', a folder under Hugging Face's own names. dtype:
    float32, bfloat16 or float16; None as stored. config: see `open_source`. adapter: a PEFT folder
    to merge in. watch: told of each stage, "writing" and "comparing", and what share of it is done.
    Tensors pass one at a time. Raises HermesError and what it is the base of.
    """
    if to not in TARGETS:
        raise HermesError(f"to is {to!r}; it must be one of {', '.join(TARGETS)}")
    if dtype is not None and dtype not in CODES:
        raise HermesError(f"dtype is {dtype!r}; it must be one of {', '.join(CODES)}")
    found = open_source(source, config=config)
    found = with_adapter(found, adapter) if adapter else found
    if TOKENIZER in found.files:
        where = f"{TOKENIZER} of {found.path}"
        require_vocabulary(found.files[TOKENIZER], found.spec, where)
    family = family_of(found.spec, renamed=True) if to == "hf" else "hermes"
    if to == "hf" and family == "hermes":
        raise HermesError(
            f"no class of Hugging Face's computes the model of {found.path}: "
            f"{misfit(found.spec)}; use --to hermes"
        )
    codes = {name: CODES[dtype] if dtype else code for name, code in found.dtypes.items()}
    params = LazyTensors(codes, lambda name: cast(found.params[name], codes[name], name))
    kinds = _kinds(found.spec, family, codes)
    most = _most(kinds)
    files = _files(found, to, most)
    proof: list[Proof] = []
    size = write_folder(
        target,
        _watched(pack(params, found.spec, family), kinds, watch),
        kinds,
        files,
        shard_limit=shard_limit,
        run=secrets.token_hex(16) if to == "hermes" else None,
        check=lambda folder: proof.append(prove(found, open_source(folder), backend, watch)),
        disk=disk,
    )
    architecture = ARCHITECTURES[family if to == "hf" else family_of(found.spec)]
    notes = found.notes + (_lost(found.spec) if to == "hf" else ())
    return Converted(found, target, to, architecture, most, size, proof[0], notes)


def _lost(spec: ModelSpec) -> tuple[str, ...]:
    """A note where config.json has no word for some of the dropout, which no proof can show."""
    if not spec.has_dropout or spec_of(converted_config_of(spec)).identity == spec.identity:
        return ()
    return ("Hugging Face's class has no place for all of the model's dropout, which is left out",)


def _watched(
    tensors: Tensors, kinds: Mapping[str, Kind], watch: Callable[[str, float], None]
) -> Tensors:
    """The tensors, each telling when its turn has come."""
    total, done = sum(kind.nbytes for kind in kinds.values()), 0

    def made(name: str) -> Array:
        nonlocal done
        watch("writing", done / total)
        done += kinds[name].nbytes
        return tensors[name]

    return LazyTensors(tensors, made)


def _kinds(spec: ModelSpec, family: str, codes: Mapping[str, str]) -> dict[str, Kind]:
    """Dtype and shape of every tensor to be stored. Raises HermesError where parts disagree."""
    kinds = {}
    for stored in layout_of(spec, family):
        parts = {codes[part] for part in stored.parts}
        if len(parts) > 1:
            raise HermesError(
                f"{', '.join(stored.parts)} make one tensor and are stored as "
                f"{', '.join(sorted(WORDS[code] for code in parts))}; choose a --dtype"
            )
        kinds[stored.name] = Kind(parts.pop(), stored.shape(parameters(spec)))
    return kinds


def _most(kinds: Mapping[str, Kind]) -> str:
    """The dtype of most of the bytes, as config.json calls it."""
    sizes: dict[str, int] = {}
    for kind in kinds.values():
        sizes[kind.dtype] = sizes.get(kind.dtype, 0) + kind.nbytes
    return WORDS[max(sizes, key=lambda code: sizes[code])]


def _files(source: Source, to: str, dtype: str) -> dict[str, bytes]:
    """Everything of the folder that is not weights."""
    ids: dict[str, Any] = {name: value for name, value in source.ids.items() if value is not None}
    files = travelling(source.files, ids)
    if to == "hf":
        files[CONFIG] = render_json(converted_config_of(source.spec, dtype=dtype, **ids))
    else:
        files[CONFIG] = render_json(config_of(source.spec, dtype=dtype, **ids))
        files[SPEC] = mal.dumps(source.spec).encode("utf-8")
    return files

"""Converts any model that hermes can open into a folder for hermes or for other tools."""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from hermes import mal
from hermes.checkpoint import Disk, TensorInfo
from hermes.checkpoint.compatibility import describe_tokens_beyond, list_tokens_beyond
from hermes.checkpoint.layout import CONFIG, SPEC, TOKENIZER
from hermes.checkpoint.weights import SHARD_LIMIT
from hermes.errors import HermesError
from hermes.interface import SHORT_NAMES, Array, LazyTensors, Tensors
from hermes.interop.adapter_folder import ADAPTER_TARGETS, write_adapter
from hermes.interop.adapters import merge_adapter, require_adapter_present
from hermes.interop.companions import adapt_companions
from hermes.interop.dtype import DTYPE_CODES, DTYPE_NAMES, cast
from hermes.interop.huggingface.config_reader import read_config
from hermes.interop.huggingface.config_writer import make_config, make_converted_config
from hermes.interop.huggingface.families import ARCHITECTURES, find_family
from hermes.interop.huggingface.inexpressible import explain_inexpressible
from hermes.interop.model_folder import require_new_folder, write_folder
from hermes.interop.open_model import StoredModel, open_model
from hermes.interop.tensor_layout import make_layout
from hermes.interop.tensor_names import pack
from hermes.interop.verify import (
    Verification,
    count_verification_bytes,
    verify_conversion,
)
from hermes.model_info.fitting import find_main_memory, require_memory
from hermes.numerics.params import list_parameters
from hermes.spec import ModelSpec
from hermes.stages import report_stage
from hermes.storage.strict_json import render_json

__all__ = ["TARGETS", "Conversion", "convert", "require_convertible"]

TARGETS = ("hermes", "hf", *ADAPTER_TARGETS)
MEMORY_ADVICE = "source and result are compared in it: use a machine with more"


@dataclass(frozen=True)
class Conversion:
    """The result of a conversion.

    to: what was written, one of TARGETS. architecture: the class in config.json. dtype: of most
    bytes. size: in bytes. notes: for the user.
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
    ignore_fields: Sequence[str] = (),
    use_ema: bool = False,
    adapter: Path | None = None,
    backend: str | None = None,
    shard_limit: int = SHARD_LIMIT,
    force: bool = False,
    on_progress: Callable[[str, float], None] = lambda stage, share: None,
    disk: Disk | None = None,
) -> Conversion:
    """Convert the model at `source` to the folder `target`, which is written whole or not at all.

    The result is read back and verified, see `verify_conversion`. Tensors are converted one at a
    time. to: 'hermes' for a checkpoint of hermes, 'hf' for Hugging Face's own tensor names,
    'mlx-adapter' or 'peft-adapter' for a run's adapters alone, as mlx-lm loads them, or PEFT beside
    the class that 'hf' writes, in the stored dtype. dtype: float32, bfloat16, float16 or float64;
    None keeps the stored one. config, ignore_fields, use_ema: see `open_model`. adapter: a PEFT
    folder to merge. force: try what memory seems too small for. on_progress: called with the stage,
    "writing" or "comparing", and the fraction of it that is done. Raises HermesError and its
    subclasses.
    """
    dtype = _read_target(to, dtype)
    if use_ema and to in ADAPTER_TARGETS:
        raise HermesError(f"{to} has no average of weights; leave --use-ema out, or --to hf")
    require_new_folder(target)
    if adapter is not None:
        require_adapter_present(adapter)
    model = open_model(source, config=config, ignore_fields=ignore_fields, use_ema=use_ema)
    if to in ADAPTER_TARGETS:
        return _convert_adapters(model, target, to, adapter, dtype, backend, disk)
    model = merge_adapter(model, adapter) if adapter else model
    if TOKENIZER in model.files:
        where = f"{TOKENIZER} of {model.path}"
        if beyond := list_tokens_beyond(model.files[TOKENIZER], model.spec, where):
            model = replace(model, notes=(*model.notes, describe_tokens_beyond(beyond)))
    family = _choose_family(model, to)
    codes = {name: DTYPE_CODES[dtype] if dtype else code for name, code in model.dtypes.items()}
    params = LazyTensors(codes, lambda name: cast(model.params[name], codes[name], name))
    kinds = _plan_kinds(model.spec, family, codes)
    main_dtype = _find_main_dtype(kinds)
    needed = count_verification_bytes(model.spec, model.dtypes, codes)
    what = f"converting {model.spec.name}"
    forced = require_memory(what, needed, find_main_memory(), force=force, advice=MEMORY_ADVICE)
    files = _render_files(model, to, main_dtype)
    results: list[Verification] = []
    size = write_folder(
        target,
        _report_progress(pack(params, model.spec, family), kinds, on_progress),
        kinds,
        files,
        shard_limit=shard_limit,
        run=secrets.token_hex(16) if to == "hermes" else None,
        check=lambda folder: results.append(
            verify_conversion(model, open_model(folder), backend, on_progress)
        ),
        disk=disk,
    )
    architecture = ARCHITECTURES[family if to == "hf" else find_family(model.spec)]
    notes = (*model.notes, *forced) + (_note_lost_dropout(model.spec) if to == "hf" else ())
    return Conversion(model, target, to, architecture, main_dtype, size, results[0], notes)


def require_convertible(
    source: Path,
    *,
    to: str,
    dtype: str | None = None,
    config: Path | None = None,
    ignore_fields: Sequence[str] = (),
) -> None:
    """Refuse what `convert` would refuse on opening the model, before anything is written.

    Raises HermesError and its subclasses.
    """
    _read_target(to, dtype)
    model = open_model(source, config=config, ignore_fields=ignore_fields)
    _choose_family(model, to)


def _read_target(to: str, dtype: str | None) -> str | None:
    """The full name of the dtype to write. Raises HermesError, also where `to` is no target."""
    if to not in TARGETS:
        raise HermesError(f"to is {to!r}; it must be one of {', '.join(TARGETS)}")
    dtype = SHORT_NAMES.get(dtype, dtype) if dtype is not None else None
    if dtype is not None and dtype not in DTYPE_CODES:
        raise HermesError(f"dtype is {dtype!r}; it must be one of {', '.join(DTYPE_CODES)}")
    return dtype


def _choose_family(model: StoredModel, to: str) -> str:
    """The family whose tensor names are written. Raises HermesError where 'hf' has none."""
    family = find_family(model.spec, renamed=True) if to == "hf" else "hermes"
    if to == "hf" and family == "hermes":
        raise HermesError(
            f"no class of Hugging Face computes the model of {model.path}: "
            f"{explain_inexpressible(model.spec)}; use --to hermes"
        )
    return family


def _convert_adapters(
    model: StoredModel,
    target: Path,
    to: str,
    adapter: Path | None,
    dtype: str | None,
    backend: str | None,
    disk: Disk | None,
) -> Conversion:
    """Write the model's adapters alone, as another tool's. Raises HermesError."""
    if adapter is not None or dtype is not None:
        raise HermesError(f"{to} writes the adapters of a run, as stored; give only the run")
    stored, size, proof = write_adapter(model, target, to, backend=backend, disk=disk)
    architecture = ARCHITECTURES[find_family(model.spec, renamed=to == "peft-adapter")]
    note = f"for mlx_lm: --model {model.path} --adapter-path {target}"
    if to == "peft-adapter":
        note = f"for PEFT, on the {architecture} that the run's base is"
    return Conversion(model, target, to, architecture, stored, size, proof, (*model.notes, note))


def _note_lost_dropout(spec: ModelSpec) -> tuple[str, ...]:
    """Note dropout that config.json cannot express, which the verification cannot notice."""
    if not spec.has_dropout or read_config(make_converted_config(spec)).identity == spec.identity:
        return ()
    return ("some of the model's dropout is left out, as Hugging Face's class has no field for it",)


def _report_progress(
    tensors: Tensors, kinds: Mapping[str, TensorInfo], on_progress: Callable[[str, float], None]
) -> Tensors:
    """Wrap tensors so that reading one reports the progress in bytes."""
    total, done = sum(kind.nbytes for kind in kinds.values()), 0

    def make(name: str) -> Array:
        nonlocal done
        on_progress("writing", done / total)
        report_stage("writing tensors", done, total)
        done += kinds[name].nbytes
        return tensors[name]

    return LazyTensors(tensors, make)


def _plan_kinds(spec: ModelSpec, family: str, codes: Mapping[str, str]) -> dict[str, TensorInfo]:
    """Plan dtype and shape of every stored tensor. Raises HermesError where its parts differ."""
    kinds = {}
    for stored in make_layout(spec, family):
        parts = {codes[part] for part in stored.parts}
        if len(parts) > 1:
            raise HermesError(
                f"{', '.join(stored.parts)} become one tensor and are stored as "
                f"{', '.join(sorted(DTYPE_NAMES[code] for code in parts))}; choose a --dtype"
            )
        kinds[stored.name] = TensorInfo(parts.pop(), stored.compute_shape(list_parameters(spec)))
    return kinds


def _find_main_dtype(kinds: Mapping[str, TensorInfo]) -> str:
    """Find the dtype of most bytes, by its name in config.json."""
    sizes: dict[str, int] = {}
    for kind in kinds.values():
        sizes[kind.dtype] = sizes.get(kind.dtype, 0) + kind.nbytes
    return DTYPE_NAMES[max(sizes, key=lambda code: sizes[code])]


def _render_files(source: StoredModel, to: str, dtype: str) -> dict[str, bytes]:
    """Render all files of the folder except weights."""
    ids: dict[str, Any] = {name: value for name, value in source.ids.items() if value is not None}
    files = adapt_companions(source.files, ids)
    if to == "hf":
        files[CONFIG] = render_json(make_converted_config(source.spec, dtype=dtype, **ids))
    else:
        made = make_config(source.spec, dtype=dtype, **ids)
        # So that the result says it wherever it is opened.
        kept = {"hermes_ignored_fields": list(source.ignored)} if source.ignored else {}
        files[CONFIG] = render_json({**made, **kept})
        files[SPEC] = mal.dumps(source.spec).encode("utf-8")
    return files

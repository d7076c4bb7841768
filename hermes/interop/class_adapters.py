"""Adapters in the layout of a class whose matrices are fused, permuted or renamed.

A low-rank update of a matrix that several of ours are parts of gives each part the same A, and its
rows of B: exactly. The other way, the parts' updates, each with an A of its own, are one update of
as many times the rank: their As above each other, their Bs along the diagonal.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hermes.checkpoint.adapter_names import AdapterNames, list_adapted_modules, split_adapter_name
from hermes.checkpoint.adapters import (
    build_peft_config,
    has_adapter,
    list_adapter_modules,
    open_adapter,
)
from hermes.checkpoint.adapters_peft import PREFIX
from hermes.checkpoint.manifest import MANIFEST
from hermes.checkpoint.weights import EMBEDDING, HEAD, MODEL, TensorView
from hermes.errors import CheckpointError, HermesError
from hermes.interface import Array, LazyTensors, Tensors
from hermes.interop.huggingface.families import FAMILIES, HERMES, find_family
from hermes.interop.huggingface.tensor_modules import OPTIONAL
from hermes.interop.stored_tensor import StoredTensor
from hermes.interop.tensor_layout import make_layout
from hermes.numerics.lora import find_adapted_paths, find_token_paths
from hermes.numerics.merging import DOWN, MAGNITUDE, TOKEN_ROWS, UP, Adapter
from hermes.numerics.params import Tensor, list_parameters
from hermes.recipe import Lora
from hermes.spec import ModelSpec
from hermes.storage.safetensors import TensorInfo

__all__ = ["build_class_files", "open_any_adapter"]


def open_any_adapter(folder: Path, spec: ModelSpec, family: str = HERMES) -> Adapter:
    """Open an adapter in our names or in those of the model's class, as an adapter of our tensors.

    family: in whose layout the model's files are. Raises CheckpointError.
    """
    family = _choose_layout(folder, spec, family)
    if family == HERMES:
        return open_adapter(folder, spec)
    layout = make_layout(spec, family)
    names = name_class_tensors(spec, family)
    try:
        theirs = open_adapter(folder, spec, names)
    except CheckpointError as error:
        if "is of another model" not in str(error):
            raise
        raise CheckpointError(f"{error} (its tensors are named as those of {family})") from None
    return _split(folder, theirs, layout, names, spec, family)


def _choose_layout(folder: Path, spec: ModelSpec, family: str) -> str:
    """Choose in whose names an adapter is: the first that has all its modules, else the first."""
    if not has_adapter(folder) or ((folder / MANIFEST).exists() and (folder / MODEL).exists()):
        return HERMES
    modules, may_be_ours = list_adapter_modules(folder)
    classes = [family, spec.name, find_family(spec, renamed=True)]
    classes = [name for name in classes if name in FAMILIES and FAMILIES[name].is_renamed(spec)]
    layouts = [HERMES, *classes] if may_be_ours or not classes else [*classes, HERMES]
    for name in dict.fromkeys(layouts):
        names = name_class_tensors(spec, name)
        if modules <= list_adapted_modules(names).keys():
            return name
    return layouts[0]


def name_class_tensors(spec: ModelSpec, family: str) -> AdapterNames:
    """Name the tensors of a model as the class of a family does."""
    layout = make_layout(spec, family)
    table = list_parameters(spec)
    shapes = {stored.name: stored.compute_shape(table) for stored in layout}
    by_part = {part: stored.name for stored in layout for part in stored.parts}
    embedding = by_part[EMBEDDING]
    head = by_part.get(HEAD) or _find_head(spec, family)
    shapes.setdefault(head, shapes[embedding])  # of a tied head, which PEFT can adapt apart
    return AdapterNames(
        shapes,
        embedding.removesuffix(".weight"),
        head.removesuffix(".weight"),
        spec.embeddings.tie_weights,
        {stored.name for stored in layout if stored.transposed},
    )


def _find_head(spec: ModelSpec, family: str) -> str:
    """Find the name of a tied head, which no file stores."""
    modules = FAMILIES[family].find_modules(spec) if family in FAMILIES else None
    found = [name for name, ours in (modules or {}).items() if ours == "lm_head"]
    return f"{found[0]}.weight" if found else HEAD


def _split(
    folder: Path,
    theirs: Adapter,
    layout: Sequence[StoredTensor],
    names: AdapterNames,
    spec: ModelSpec,
    family: str,
) -> Adapter:
    """Split an adapter of a class's tensors into one of ours. Raises CheckpointError."""
    table = dict(list_parameters(spec))
    table.setdefault(HEAD, table[EMBEDDING])
    by_name = {stored.name: stored for stored in layout}
    head = f"{names.head}.weight"
    by_name.setdefault(head, StoredTensor(head, (HEAD,)))
    pieces = [name for name in theirs.tensors if name in by_name and by_name[name].pieces > 1]
    if pieces:
        raise CheckpointError(
            f"adapter {folder} replaces {pieces[0]!r}, one head's part of a norm, and hermes reads "
            "norms of heads whole; merge it in PEFT and convert the result"
        )
    # Of each of our tensors: its name there, the stored tensor it is of, and which part of that.
    sources: dict[str, tuple[str, StoredTensor, str]] = {}
    for name in theirs.tensors:
        path, end = split_adapter_name(name)
        stored = by_name[f"{path}.bias" if end == "bias" else f"{path}.weight"]
        for part in stored.parts:
            sources[f"{part.rpartition('.')[0]}.{end}"] = name, stored, part
    if FAMILIES[family].has_unit_head(spec) and any(name.startswith("lm_head") for name in sources):
        raise CheckpointError(
            f"adapter {folder} changes the head, whose rows {family} divides by their lengths; "
            "merge it there and convert the result"
        )

    def read(name: str) -> Array:
        theirs_name, stored, part = sources[name]
        array, end = theirs.tensors[theirs_name], split_adapter_name(name)[1]
        if end in (UP, MAGNITUDE) and part != EMBEDDING:
            array = stored.unpack_rows(array, part, table)
        elif name == part:
            grown = array.shape != stored.compute_shape(table)  # by rows of new tokens
            return array if grown else stored.unpack(array, part, table)
        if end in (DOWN, UP) and len(stored.parts) > 1:
            used = _find_used_ranks(stored, part, split_adapter_name(theirs_name)[0])
            return array[used] if end == DOWN else array[:, used]
        return array

    def _find_used_ranks(stored: StoredTensor, part: str, path: str) -> NDArray[np.intp]:
        """Find the rows of A that B uses for a part: of several parts, each may have its own."""
        up = stored.unpack_rows(theirs.tensors[f"{path}.{UP}"], part, table)
        used = np.flatnonzero(np.any(up != 0, axis=0))
        return used if len(used) else np.arange(up.shape[1])

    def list_ours(path: str) -> list[str]:
        return [part.removesuffix(".weight") for part in by_name[f"{path}.weight"].parts]

    scales = {ours: scale for path, scale in theirs.scales.items() for ours in list_ours(path)}
    token_ids = {ours: ids for path, ids in theirs.token_ids.items() for ours in list_ours(path)}
    return Adapter(LazyTensors(sources, read), scales, token_ids, theirs.ties_head)


def build_class_files(
    spec: ModelSpec, family: str, lora: Lora, infos: Mapping[str, TensorInfo], params: Tensors
) -> tuple[bytes, tuple[Tensors, dict[str, TensorInfo]]]:
    """Build PEFT's adapter_config.json and adapter_model.safetensors for the class of a family.

    infos, params: of the run's adapters, by our names. Raises HermesError where a matrix of the
    class is adapted in part with DoRA, which scales all of its rows.
    """
    layout = make_layout(spec, family)
    adapted = set(find_adapted_paths(spec, lora))
    table, names = list_parameters(spec), name_class_tensors(spec, family)
    shares = _share_down(layout, adapted, params)
    tensors: dict[str, Callable[[], Array]] = {}
    stored_infos: dict[str, TensorInfo] = {}
    ranks: dict[str, int] = {}
    for stored in layout:
        parts = [part for part in stored.parts if part.removesuffix(".weight") in adapted]
        if not parts:
            continue
        if lora.dora and len(parts) < len(stored.parts):
            raise HermesError(
                f"{stored.name} of {family} is one matrix of {', '.join(stored.parts)}, of which "
                f"DoRA adapts {', '.join(parts)} alone; use hermes merge --to hf"
            )
        update = _Update(stored, tuple(parts), table, params, shares)
        path = f"{PREFIX}{_name_module(stored.name, family)}"
        kind = infos[f"{parts[0].removesuffix('.weight')}.{UP}"].dtype
        rank = lora.rank * (1 if shares else len(parts))
        if rank != lora.rank:
            ranks[_drop_layer(path)] = rank
        rows, columns = names.find_matrix(stored.name.removesuffix(".weight")) or (0, 0)
        tensors |= {f"{path}.{DOWN}": update.make_down, f"{path}.{UP}": update.make_up}
        stored_infos[f"{path}.{DOWN}"] = TensorInfo(kind, (rank, columns))
        stored_infos[f"{path}.{UP}"] = TensorInfo(kind, (rows, rank))
        if lora.dora:
            tensors[f"{path}.{MAGNITUDE}"] = update.make_magnitudes
            stored_infos[f"{path}.{MAGNITUDE}"] = TensorInfo(kind, (rows,))
    targets = list(dict.fromkeys(_drop_layer(split_adapter_name(name)[0]) for name in tensors))
    for ours in find_token_paths(spec, lora):
        theirs = names.head if ours == "lm_head" else names.embedding
        name = f"{PREFIX}{_name_module(theirs, family)}.{TOKEN_ROWS}"
        tensors[name] = partial(params.__getitem__, f"{ours}.{TOKEN_ROWS}")
        stored_infos[name] = infos[f"{ours}.{TOKEN_ROWS}"]
    # The factor of B A, alpha / rank, is to stay as it is.
    growth = {name: rank / lora.rank for name, rank in ranks.items()}
    if lora.rslora:
        growth = {name: math.sqrt(factor) for name, factor in growth.items()}
    config = build_peft_config(
        lora,
        targets,
        {"rank_pattern": ranks, "alpha_pattern": {n: lora.alpha * f for n, f in growth.items()}},
        embedding=names.embedding.rpartition(".")[2],
        head=None if spec.embeddings.tie_weights else names.head.rpartition(".")[2],
        transposed=bool(names.transposed),
    )
    return config, (TensorView(tuple(tensors), lambda name: tensors[name]()), stored_infos)


def _share_down(layout: Sequence[StoredTensor], adapted: set[str], params: Tensors) -> bool:
    """Whether the parts of every fused matrix have one A, as when another tool trained them."""
    for stored in layout:
        paths = [part.removesuffix(".weight") for part in stored.parts]
        found = [params[f"{path}.{DOWN}"] for path in paths if path in adapted]
        if any(not np.array_equal(found[0], one) for one in found[1:]):
            return False
    return True


def _name_module(name: str, family: str) -> str:
    """The path of a module in its class, which GPT-2's files may lack the first word of."""
    path = name.removesuffix(".weight")
    bare = family == "gpt2" and not path.startswith((OPTIONAL, "lm_head"))
    return OPTIONAL + path if bare else path


def _drop_layer(path: str) -> str:
    """A module's name within its layer, by which PEFT finds it in all of them."""
    return re.split(r"\.\d+\.", path)[-1]


@dataclass(frozen=True)
class _Update:
    """The update of a stored matrix, from those of its parts. shares: whether these have one A."""

    stored: StoredTensor
    parts: tuple[str, ...]
    table: Mapping[str, Tensor]
    params: Tensors
    shares: bool

    def _read(self, part: str, end: str) -> Array:
        return self.params[f"{part.removesuffix('.weight')}.{end}"]

    def make_down(self) -> Array:
        """A: the parts' above each other."""
        if self.shares:
            return self._read(self.parts[0], DOWN)
        return np.concatenate([self._read(part, DOWN) for part in self.parts])

    def make_up(self) -> Array:
        """B: the parts' along the diagonal, of those without an update zero."""
        some = self._read(self.parts[0], UP)
        rank, width = some.shape[1], some.shape[1] * (1 if self.shares else len(self.parts))
        rows = {}
        for part in self.stored.parts:
            rows[part] = np.zeros((self.table[part].shape[0], width), some.dtype)
            if part in self.parts:
                start = 0 if self.shares else rank * self.parts.index(part)
                rows[part][:, start : start + rank] = self._read(part, UP)
        return self.stored.pack_rows(rows)

    def make_magnitudes(self) -> Array:
        """The magnitudes of all rows."""
        return self.stored.pack_rows({part: self._read(part, MAGNITUDE) for part in self.parts})

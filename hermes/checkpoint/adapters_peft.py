"""Reads PEFT's adapters: what its config means, and which tensor belongs to which matrix.

PEFT prefixes the tensor names with `base_model.model.`. Which matrices have adapters is read from
the tensors, because the config can say it in several ways (names, regular expressions, "all").
Every key of the config is known or refused: one that hermes ignored could change the model.
"""

import math
import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hermes.checkpoint.adapter_names import (
    AdapterNames,
    list_adapted_modules,
    split_adapter_name,
    strip_holders,
)
from hermes.checkpoint.weights import FLOATS, TensorView
from hermes.errors import CheckpointError
from hermes.numerics.merging import (
    DOWN,
    EMBEDDING_DOWN,
    EMBEDDING_UP,
    MAGNITUDE,
    TOKEN_ROWS,
    UP,
    Adapter,
)
from hermes.storage.safetensors import TensorFile, TensorInfo
from hermes.storage.strict_json import Json

__all__ = ["PREFIX", "read_peft_adapter", "remove_prefix"]

PREFIX = "base_model.model."
# Keys that say nothing about what the adapter computes, or only how it was trained.
HARMLESS = (
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision"),
    *("task_type", "megatron_core", "runtime_config", "qalora_group_size", "lora_dropout"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "ensure_weight_tying"),
    "fan_in_fan_out",  # which PEFT sets to what the module is
)
# Keys that hermes reads.
READ = (
    *("peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern"),
    *("target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("modules_to_save", "trainable_token_indices"),
)
# Features that hermes does not implement, and the values that switch each off; those that are not
# listed are off where they are null, false or empty. Of the ways to initialize adapters, those not
# listed here (PiSSA, OLoRA, ...) change the base weights.
PLAIN: Mapping[str, tuple[Json, ...]] = {
    "bias": ("none", "all", "lora_only"),
    "init_lora_weights": (True, False, None, "gaussian", "orthogonal", "eva"),
}
# A pattern is matched with short names, but a repeated group can still take for ever.
PATTERN = re.compile(r"[\w.\\^$|()?:*+\[\]-]{1,200}\Z")
NESTED = re.compile(r"\)[*+?{]")
LAYER = re.compile(r"\.\d+\.")
UPDATES = (DOWN, UP, EMBEDDING_DOWN, EMBEDDING_UP)


def read_peft_adapter(
    folder: Path, config: Mapping[str, Any], file: TensorFile, model: AdapterNames, where: str
) -> Adapter:
    """Read an adapter in PEFT's layout. Raises CheckpointError, naming what is not understood."""
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{where} is not the config of a LoRA adapter")
    _check_keys(config, where)
    stored = _match_names(folder, file, model)
    infos = {name: file.infos[stored[name]] for name in stored}
    try:
        settings = _PeftSettings(config, model)
        settings.follow_tied_head(model, infos)
        paths = _find_paths(model, stored)
        expected = dict(_walk_expected(model, settings, paths, infos))
        missing = settings.find_missing_targets(model, paths)
        scales = {path: settings.find_scale(paths[path]) for path in paths}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{where} cannot be read: {error}") from None
    if missing:
        raise CheckpointError(f"adapter {folder} is of another model: it lacks '{missing}.{DOWN}'")
    _check_tensors(folder, infos, expected)
    ties_head = not model.tied or not _has_own_head(model, file, stored, scales)
    head = f"{model.head}.weight"
    if model.tied and not ties_head and head not in stored:
        base = stored.get(f"{model.embedding}.weight", "")
        if ".base_layer." not in base:
            base = f"{PREFIX}{model.embedding}.base_layer.weight"
        if base in file:  # PEFT loads it into the one matrix that both are
            stored[head] = base
    names = (*expected, *([head] if head in stored and head not in expected else []))
    tensors = TensorView(names, lambda name: file[stored[name]])
    return Adapter(tensors, scales, settings.token_ids, ties_head)


def _match_names(folder: Path, file: TensorFile, model: AdapterNames) -> dict[str, str]:
    """The names of the tensors in the model, to those in the file."""
    modules = list_adapted_modules(model)
    found: dict[str, str] = {}
    for name in file:
        # Where a vocabulary was resized, the base's own module is stored beside the trained one.
        if ".original_module." in name:
            continue
        path, end = split_adapter_name(remove_prefix(name))
        path = modules.get(strip_holders(path), path)
        if (ours := f"{path}.{end}") in found:
            if ".modules_to_save." in found[ours]:
                continue  # PEFT stores the base's own beside the trained one
            if ".modules_to_save." in name:
                found[ours] = name
                continue
            raise CheckpointError(
                f"adapter {folder} has two tensors for {ours!r}: {found[ours]!r}, {name!r}"
            )
        found[ours] = name
    return found


def _has_own_head(
    model: AdapterNames, file: TensorFile, stored: Mapping[str, str], scales: Mapping[str, float]
) -> bool:
    """Whether a tied head and its embeddings are no longer the same once they are adapted."""
    embedding, head = model.embedding, model.head
    whole, output = f"{embedding}.weight", f"{head}.weight"

    def equal(one: str, other: str, *, transposed: bool = False) -> bool:
        if one not in stored or other not in stored:
            return one not in stored and other not in stored
        right = file[stored[other]]
        return bool(np.array_equal(file[stored[one]], right.T if transposed else right))

    if f"{head}.{TOKEN_ROWS}" in stored:
        return True
    if output not in stored and head not in scales and embedding not in scales:
        # Only the embeddings are replaced, or nothing is: rows of tokens are tied in PEFT, too.
        return whole in stored and ".base_layer." not in stored[whole]
    return not (
        equal(whole, output)
        and equal(f"{embedding}.{EMBEDDING_DOWN}", f"{head}.{UP}", transposed=True)
        and equal(f"{embedding}.{EMBEDDING_UP}", f"{head}.{DOWN}", transposed=True)
        and f"{embedding}.{MAGNITUDE}" not in stored
    )


def remove_prefix(name: str) -> str:
    """A tensor's name without what PEFT puts around it."""
    name = name.removeprefix(PREFIX).replace(".base_layer.", ".")
    return name.replace(".modules_to_save.", ".")


def _check_keys(config: Mapping[str, Any], where: str) -> None:
    for key, value in config.items():
        plain = value in PLAIN[key] if key in PLAIN else _is_off(value)
        if key in HARMLESS or key in READ or plain:
            continue
        raise CheckpointError(f"{where}: {key} is {value!r}, which hermes does not read")


def _is_off(value: Any) -> bool:
    """Whether a value is null, false or empty; 0 is a number like others, such as a layer's."""
    return value is None or value is False or (isinstance(value, str | list | dict) and not value)


class _PeftSettings:
    """What a config says about each matrix, by its path in the file.

    Raises KeyError, TypeError, ValueError.
    """

    def __init__(self, config: Mapping[str, Any], model: AdapterNames):
        self.rank, self.alpha = int(config["r"]), float(config["lora_alpha"])
        if self.rank < 1 or not 0 < self.alpha < math.inf:
            raise ValueError(f"r is {self.rank} and lora_alpha {self.alpha}; both must be above 0")
        self._rslora = bool(config.get("use_rslora"))
        self.dora = bool(config.get("use_dora"))
        self._ranks = _read_patterns(config.get("rank_pattern"))
        self._alphas = _read_patterns(config.get("alpha_pattern"))
        targets = config.get("target_modules")
        # What is not a list of names may choose any matrices, and so may a choice of layers.
        choices = config.get("layers_to_transform"), config.get("exclude_modules")
        chosen = not all(map(_is_off, choices))
        self._targets = targets if isinstance(targets, list) and not chosen else []
        self.token_ids = dict(_walk_token_ids(config.get("trainable_token_indices"), model))

    def follow_tied_head(self, model: AdapterNames, infos: Mapping[str, TensorInfo]) -> None:
        """Forget the head's rows of tokens where they are those of the embeddings, stored once."""
        same = model.tied and self.token_ids.get(model.head) == self.token_ids.get(model.embedding)
        if same and f"{model.head}.{TOKEN_ROWS}" not in infos:
            self.token_ids.pop(model.head, None)

    def find_rank(self, path: str) -> int:
        """The rank of a matrix: of the first pattern that matches, else r."""
        return int(_match_first(self._ranks, path, self.rank))

    def find_scale(self, path: str) -> float:
        """The factor of B A."""
        rank, alpha = self.find_rank(path), float(_match_first(self._alphas, path, self.alpha))
        return alpha / (math.sqrt(rank) if self._rslora else rank)

    def find_missing_targets(self, model: AdapterNames, paths: Collection[str]) -> str | None:
        """The first matrix of a layer that the config names and the file has no tensors for."""
        for name in model.shapes:
            path = name.removesuffix(".weight")
            named = any(path == one or path.endswith(f".{one}") for one in self._targets)
            # Of an attention's output gate only hermes makes models, without adapters on it.
            plain = bool(LAYER.search(path)) and not path.endswith(".self_attn.gate_proj")
            if named and plain and path not in paths and model.find_matrix(path):
                return path
        return None


def _read_patterns(patterns: Any) -> dict[str, Any]:
    for pattern in patterns or {}:
        if not PATTERN.match(pattern) or NESTED.search(pattern):
            raise ValueError(f"the pattern {pattern[:80]!r} is not one that hermes reads")
        re.compile(pattern)
    return dict(patterns or {})


def _match_first(patterns: Mapping[str, Any], path: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of the path, as PEFT matches it."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", path):
            return value
    return default


def _walk_token_ids(given: Any, model: AdapterNames) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each matrix that has rows of tokens, and their ids."""
    if not given:
        return
    # A list is of the embeddings, whatever their name.
    by_name = given if isinstance(given, dict) else {model.embedding.rpartition(".")[2]: given}
    modules = {path.rpartition(".")[2]: path for path in (model.embedding, model.head)}
    for name, ids in by_name.items():
        path = modules.get(name.rpartition(".")[2])
        if path is None or not all(type(i) is int and i >= 0 for i in ids):
            raise ValueError(f"trainable_token_indices of {name!r} are {str(ids)[:40]}")
        if len(set(ids)) != len(ids):
            raise ValueError(f"trainable_token_indices of {name!r} name a token twice")
        if ids:
            yield path, tuple(ids)


def _find_paths(model: AdapterNames, stored: Mapping[str, str]) -> dict[str, str]:
    """The matrices with a low-rank update, in the order of the model, and their paths in the file.

    Patterns of a config are matched with the latter.
    """
    found: dict[str, str] = {}
    for name, own in stored.items():
        path, end = split_adapter_name(name)
        if end in UPDATES:
            found[path] = split_adapter_name(own.removeprefix(PREFIX))[0]
    order = {name: index for index, name in enumerate(model.shapes)}

    def find_order(path: str) -> tuple[int, str]:
        return order.get(f"{path}.weight", len(order)), path

    return {path: found[path] for path in sorted(found, key=find_order)}


def _walk_expected(
    model: AdapterNames,
    settings: _PeftSettings,
    paths: Mapping[str, str],
    infos: Mapping[str, TensorInfo],
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The shapes of all tensors that the adapter must have."""
    for path in paths:
        shape = model.find_matrix(path)
        if shape is None:
            continue  # a tensor too many, which is said by its name
        if f"{path}.{EMBEDDING_DOWN}" in infos and path != model.embedding:
            raise ValueError(
                f"it adapts {path!r}, and of embeddings hermes adapts those of tokens alone; "
                "merge it in PEFT and convert the result"
            )
        own = infos.get(f"{path}.weight")
        rows, columns = (own.shape[0], own.shape[1]) if own and len(own.shape) == 2 else shape
        rank = settings.find_rank(paths[path])
        if path == model.embedding:
            yield f"{path}.{EMBEDDING_DOWN}", (rank, rows)
            yield f"{path}.{EMBEDDING_UP}", (columns, rank)
        else:
            yield f"{path}.{DOWN}", (rank, columns)
            yield f"{path}.{UP}", (rows, rank)
        if settings.dora:
            yield f"{path}.{MAGNITUDE}", (columns if path == model.embedding else rows,)
    for path, ids in settings.token_ids.items():
        width = model.shapes[f"{model.embedding}.weight"][1]
        yield f"{path}.{TOKEN_ROWS}", (len(ids), width)
    for name, info in infos.items():
        if name in model.shapes:
            # Embeddings may have grown by new tokens: the number of rows is their own.
            whole = model.shapes[name]
            rows_of_tokens = name in (f"{model.embedding}.weight", f"{model.head}.weight")
            grows = rows_of_tokens and info.shape[1:] == whole[1:]
            yield name, info.shape if grows else whole


def _check_tensors(
    folder: Path, infos: Mapping[str, TensorInfo], expected: Mapping[str, tuple[int, ...]]
) -> None:
    """Refuse a file that lacks a tensor, has one too many, or one of another shape."""
    for name, shape in expected.items():
        if name not in infos:
            raise CheckpointError(f"adapter {folder} is of another model: it lacks {name!r}")
        info = infos[name]
        if info.shape != shape or info.dtype not in FLOATS:
            raise CheckpointError(
                f"adapter {folder} is of another model: {name!r} is {info.dtype} {info.shape} "
                f"there, {shape} here"
            )
    for name in infos:
        if name not in expected:
            raise CheckpointError(
                f"adapter {folder} is of another model: it has {name!r}, this one does not"
            )

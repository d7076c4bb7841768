"""Reads PEFT's adapters: what its config means, and which tensor belongs to which matrix.

PEFT prefixes the tensor names with `base_model.model.`. Which matrices have adapters is read from
the tensors, because the config can say it in several ways (names, regular expressions, "all").
Every key of the config is known or refused: one that hermes ignored could change the model.
"""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hermes.checkpoint.weights import EMBEDDING, FLOATS, HEAD, TensorView
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
from hermes.numerics.params import list_parameters
from hermes.spec import ModelSpec
from hermes.storage.safetensors import TensorFile, TensorInfo
from hermes.storage.strict_json import Json

__all__ = ["PREFIX", "read_peft_adapter"]

PREFIX = "base_model.model."
# Keys that say nothing about what the adapter computes, or only how it was trained.
HARMLESS = (
    *("auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision"),
    *("task_type", "megatron_core", "runtime_config", "qalora_group_size", "lora_dropout"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "ensure_weight_tying"),
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


def read_peft_adapter(
    folder: Path, config: Mapping[str, Any], file: TensorFile, spec: ModelSpec, where: str
) -> Adapter:
    """Read an adapter in PEFT's layout. Raises CheckpointError, naming what is not understood."""
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{where} is not the config of a LoRA adapter")
    _check_keys(config, where)
    # Where a vocabulary was resized, the base's own module is stored beside the trained one.
    stored = {remove_prefix(name): name for name in file if ".original_module." not in name}
    infos = {name: file.infos[stored[name]] for name in stored}
    try:
        settings = _PeftSettings(config, spec)
        settings.follow_tied_head(spec, infos)
        paths = _find_paths(spec, infos)
        expected = dict(_walk_expected(spec, settings, paths, infos))
        missing = settings.find_missing_targets(spec, paths)
        scales = {path: settings.find_scale(path) for path in paths}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{where} cannot be read: {error}") from None
    if missing:
        raise CheckpointError(f"adapter {folder} is of another model: it lacks '{missing}.{DOWN}'")
    _check_tensors(folder, infos, expected)
    ties_head = not spec.embeddings.tie_weights or not _has_own_head(file, stored, scales)
    if spec.embeddings.tie_weights and not ties_head and HEAD not in stored:
        base = f"{PREFIX}{EMBEDDING.replace('.weight', '.base_layer.weight')}"
        if base in file:  # PEFT loads it into the one matrix that both are
            stored[HEAD] = base
    names = (*expected, *([HEAD] if HEAD in stored and HEAD not in expected else []))
    tensors = TensorView(names, lambda name: file[stored[name]])
    return Adapter(tensors, scales, settings.token_ids, ties_head)


def _has_own_head(file: TensorFile, stored: Mapping[str, str], scales: Mapping[str, float]) -> bool:
    """Whether a tied head and its embeddings are no longer the same once they are adapted."""
    embedding, head = EMBEDDING.removesuffix(".weight"), HEAD.removesuffix(".weight")

    def equal(one: str, other: str, *, transposed: bool = False) -> bool:
        if one not in stored or other not in stored:
            return one not in stored and other not in stored
        right = file[stored[other]]
        return bool(np.array_equal(file[stored[one]], right.T if transposed else right))

    if f"{head}.{TOKEN_ROWS}" in stored:
        return True
    if HEAD not in stored and head not in scales and embedding not in scales:
        # Only the embeddings are replaced, or nothing is: rows of tokens are tied in PEFT, too.
        return EMBEDDING in stored and ".base_layer." not in stored[EMBEDDING]
    return not (
        equal(EMBEDDING, HEAD)
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
    """What a config says about each matrix. Raises KeyError, TypeError, ValueError."""

    def __init__(self, config: Mapping[str, Any], spec: ModelSpec):
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
        self.token_ids = dict(_walk_token_ids(config.get("trainable_token_indices"), spec))

    def follow_tied_head(self, spec: ModelSpec, infos: Mapping[str, TensorInfo]) -> None:
        """Forget the head's rows of tokens where they are those of the embeddings, stored once."""
        ids = self.token_ids.get("lm_head")
        same = spec.embeddings.tie_weights and ids == self.token_ids.get("model.embed_tokens")
        if same and f"lm_head.{TOKEN_ROWS}" not in infos:
            self.token_ids.pop("lm_head", None)

    def find_rank(self, path: str) -> int:
        """The rank of a matrix: of the first pattern that matches, else r."""
        return int(_match_first(self._ranks, path, self.rank))

    def find_scale(self, path: str) -> float:
        """The factor of B A."""
        rank, alpha = self.find_rank(path), float(_match_first(self._alphas, path, self.alpha))
        return alpha / (math.sqrt(rank) if self._rslora else rank)

    def find_missing_targets(self, spec: ModelSpec, paths: tuple[str, ...]) -> str | None:
        """The first matrix that the config names and the file has no tensors for."""
        here = [name.removesuffix(".weight") for name in list_parameters(spec)]
        for path in here:
            named = any(path == one or path.endswith(f".{one}") for one in self._targets)
            # Of an attention's output gate only hermes makes models, without adapters on it.
            plain = path.endswith("_proj") and not path.endswith(".self_attn.gate_proj")
            if named and path not in paths and plain:
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


def _walk_token_ids(given: Any, spec: ModelSpec) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Each matrix that has rows of tokens, and their ids."""
    if not given:
        return
    by_name = given if isinstance(given, dict) else {"embed_tokens": given}
    for name, ids in by_name.items():
        path = {"embed_tokens": "model.embed_tokens", "lm_head": "lm_head"}.get(
            name.rpartition(".")[2]
        )
        if path is None or not all(type(i) is int and i >= 0 for i in ids):
            raise ValueError(f"trainable_token_indices of {name!r} are {str(ids)[:40]}")
        if len(set(ids)) != len(ids):
            raise ValueError(f"trainable_token_indices of {name!r} name a token twice")
        if ids:
            yield path, tuple(ids)


def _find_paths(spec: ModelSpec, infos: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """The matrices with a low-rank update, in the order of the forward pass."""
    ends = tuple(f".{end}" for end in (DOWN, UP, EMBEDDING_DOWN, EMBEDDING_UP))
    found = {name[: -len(end)] for name in infos for end in ends if name.endswith(end)}
    order = {name: index for index, name in enumerate(list_parameters(spec))}
    return tuple(sorted(found, key=lambda path: (order.get(f"{path}.weight", len(order)), path)))


def _walk_expected(
    spec: ModelSpec,
    settings: _PeftSettings,
    paths: tuple[str, ...],
    infos: Mapping[str, TensorInfo],
) -> Iterator[tuple[str, tuple[int, ...]]]:
    """The shapes of all tensors that the adapter must have."""
    shapes = {name: tensor.shape for name, tensor in list_parameters(spec).items()}
    shapes.setdefault(HEAD, shapes[EMBEDDING])  # of a tied head, which PEFT can adapt apart
    for path in paths:
        if f"{path}.weight" not in shapes:
            continue  # a tensor too many, which is said by its name
        own = infos.get(f"{path}.weight")
        rows, columns = own.shape if own else shapes[f"{path}.weight"]
        rank = settings.find_rank(path)
        if f"{path}.weight" == EMBEDDING:
            yield f"{path}.{EMBEDDING_DOWN}", (rank, rows)
            yield f"{path}.{EMBEDDING_UP}", (columns, rank)
        else:
            yield f"{path}.{DOWN}", (rank, columns)
            yield f"{path}.{UP}", (rows, rank)
        if settings.dora:
            width = columns if f"{path}.weight" == EMBEDDING else rows
            yield f"{path}.{MAGNITUDE}", (width,)
    for path, ids in settings.token_ids.items():
        yield f"{path}.{TOKEN_ROWS}", (len(ids), spec.hidden_size)
    for name, info in infos.items():
        if name in shapes:
            # Embeddings may have grown by new tokens: the number of rows is their own.
            grows = name in (EMBEDDING, HEAD) and info.shape[1:] == shapes[name][1:]
            yield name, info.shape if grows else shapes[name]


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

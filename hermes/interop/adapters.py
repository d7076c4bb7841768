"""Merges an adapter that lies in files of its own into a model: one of hermes, PEFT or mlx-lm."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from hermes.checkpoint import list_steps, locate
from hermes.checkpoint.layout import TOKENIZER
from hermes.checkpoint.manifest import MANIFEST
from hermes.checkpoint.weights import EMBEDDING, HEAD, MODEL, read_weights
from hermes.errors import CheckpointError
from hermes.formatting import format_count
from hermes.interface import Array, LazyTensors, Tensors
from hermes.interop.class_adapters import open_any_adapter
from hermes.interop.companions import read_companions
from hermes.interop.hub import parse_hub_name, resolve_hub_path
from hermes.interop.open_model import StoredModel, note_skipped
from hermes.numerics.merging import Adapter, merge_tensors
from hermes.spec import ModelSpec

__all__ = ["find_adapter", "merge_adapter", "require_adapter_present"]


def require_adapter_present(folder: Path) -> None:
    """Refuse an adapter that is not there; the Hub is not asked. Raises CheckpointError."""
    if parse_hub_name(folder) is None and not folder.exists():
        raise CheckpointError(f"{folder}: no such adapter; check the name")


def find_adapter(
    folder: Path, spec: ModelSpec, params: Tensors, *, family: str = "hermes", model: Path
) -> tuple[Path, Adapter, tuple[str, ...]]:
    """Find and open an adapter of a model: one of hermes, PEFT or mlx-lm.

    folder: the adapter's, or a run's, whose newest checkpoint is taken. params, family: the
    model's tensors, and in whose layout its files are; model: where they are. Also returns where
    the adapter is, and notes. Raises CheckpointError, also if a run of hermes trained the adapter
    on other weights.
    """
    path, notes = resolve_hub_path(folder)
    if path.is_dir() and list_steps(path):
        found, skipped = locate(path)
        path, notes = found.path, notes + note_skipped(skipped)
    adapter = open_any_adapter(path, spec, family)
    if (path / MANIFEST).exists() and (path / MODEL).exists():
        _require_trained_on(params, model, path, adapter)
    return path, adapter, notes


def merge_adapter(source: StoredModel, folder: Path) -> StoredModel:
    """Merge an adapter of hermes, PEFT or mlx-lm into a model, in float32 at least.

    folder: as in `find_adapter`. A tokenizer that lies beside the adapter is the result's. Raises
    CheckpointError.
    """
    path, adapter, notes = find_adapter(
        folder, source.spec, source.params, family=source.family, model=source.path
    )
    spec, dtypes = source.spec, dict(source.dtypes)
    if not adapter.ties_head:
        spec = replace(spec, embeddings=replace(spec.embeddings, tie_weights=False))
        dtypes[HEAD] = dtypes[EMBEDDING]
        notes += ("the adapter changes embeddings and head apart, so the result's are not tied",)
    spec, rows = _extend_vocabulary(spec, adapter, path)
    if rows:
        grown = f"from {source.spec.vocab_size} to {spec.vocab_size} tokens"
        notes += (f"the vocabulary grows {grown}",)
    files, said = _choose_files(source.files, path)
    base = _make_base(source, spec, rows)
    return replace(
        source,
        spec=spec,
        params=merge_tensors(spec, base, adapter),
        dtypes=dtypes,
        files=files,
        adapted=True,
        notes=source.notes + notes + said,
    )


def _make_base(source: StoredModel, spec: ModelSpec, rows: int) -> Tensors:
    """The model's tensors in float32 at least, with what the adapter needs beside.

    rows: how many are appended, of zeros, to what has a row per token; the adapter fills them.
    """

    def read(name: str) -> Array:
        tied = name == HEAD and name not in source.params
        weight = source.params[EMBEDDING if tied else name]
        weight = weight if weight.dtype == np.float64 else weight.astype(np.float32)
        if rows and name in (EMBEDDING, HEAD):
            weight = np.pad(weight, ((0, rows), (0, 0)))
        return weight

    names = (*source.params, *(() if spec.embeddings.tie_weights else (HEAD,)))
    return LazyTensors(names, read)


def _extend_vocabulary(spec: ModelSpec, adapter: Adapter, path: Path) -> tuple[ModelSpec, int]:
    """The model with a row for each token that the adapter has one for, and how many are new.

    Raises CheckpointError where a matrix would have a row that nothing fills.
    """
    old, needed = spec.vocab_size, {}
    for name in (EMBEDDING,) if spec.embeddings.tie_weights else (EMBEDDING, HEAD):
        end = name.removesuffix(".weight")
        ids = adapter.token_ids.get(end, ())
        count = len(adapter.tensors[name]) if name in adapter.tensors else old
        if count < old:
            raise CheckpointError(
                f"adapter {path} is of another model: {name!r} has "
                f"{format_count(count, 'rows')} there, {old:,} here"
            )
        while count in ids:
            count += 1
        needed[name] = max(count, *(i + 1 for i in ids)) if ids else count
        if needed[name] > count:
            raise CheckpointError(
                f"adapter {path} has a row for token {needed[name] - 1} and none for token "
                f"{count}, which this model lacks; give the model that it was trained on"
            )
    new = max(needed.values())
    if new > old and (min(needed.values()) < new or spec.output.bias):
        raise CheckpointError(
            f"adapter {path} has rows for {format_count(new, 'tokens')} in one of embeddings and "
            f"head, and this model for {old:,}; give the model that it was trained on"
        )
    return (replace(spec, vocab_size=new) if new > old else spec), new - old


def _choose_files(
    files: Mapping[str, bytes], path: Path
) -> tuple[Mapping[str, bytes], tuple[str, ...]]:
    """The companions of the result: the adapter's, where a tokenizer lies beside it."""
    beside = read_companions(path)
    if TOKENIZER not in beside or beside[TOKENIZER] == files.get(TOKENIZER):
        return files, ()
    return {**files, **beside}, ("the tokenizer is the one that lies beside the adapter",)


def _require_trained_on(params: Tensors, model: Path, run: Path, adapter: Adapter) -> None:
    """Refuse a base model whose adapted matrices differ from those stored with the adapter."""
    own = read_weights(run)
    for path in adapter.scales:
        name = f"{path}.weight"
        weight = params[name]
        with np.errstate(over="ignore"):  # a number beyond float16 becomes inf and so differs
            same = name in own and np.array_equal(own[name].astype(weight.dtype), weight)
        if not same:
            raise CheckpointError(
                f"adapter {run} was trained on other weights than those of {model}: {name!r} "
                f"differs; give the model that it was trained on, or merge --checkpoint {run} alone"
            )

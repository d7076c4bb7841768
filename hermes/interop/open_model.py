"""Opens any model as a specification and our tensors, which are read one at a time.

Sources are checkpoints of hermes, Hugging Face folders, weights with a configuration, and training
checkpoints of nanoGPT and litgpt.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hermes import mal
from hermes.checkpoint import SkippedCheckpoint, list_steps, locate
from hermes.checkpoint.compatibility import require_model
from hermes.checkpoint.find import resolve_run_name
from hermes.checkpoint.layout import CONFIG, SPEC
from hermes.checkpoint.manifest import MANIFEST
from hermes.checkpoint.weights import read_weights
from hermes.errors import CheckpointError, HermesError
from hermes.interface import Tensors
from hermes.interop.companions import name_file, parse_object, read_companions
from hermes.interop.hub import describe_missing_model, resolve_hub_path
from hermes.interop.huggingface.config_reader import read_any_config
from hermes.interop.nanogpt_litgpt import read_litgpt, read_nanogpt
from hermes.interop.tensor_names import TensorSource, unpack
from hermes.interop.torch_checkpoint import TorchFile, has_weights, read_folder
from hermes.spec import ModelSpec
from hermes.storage.path_kinds import describe_kind
from hermes.storage.reading import list_folder, read_small
from hermes.storage.strict_yaml import read_value_mapping

__all__ = ["StoredModel", "note_skipped", "open_model"]

LITGPT, LITGPT_CONFIG = "lit_model.pth", "model_config.yaml"
LITGPT_ADAPTERS = ("lora", "adapter", "adapter_v2")
PROMPT_STYLE = "prompt_style.json"  # of litgpt, in place of a chat template
TORCH_ENDINGS = (".pt", ".pth", ".ckpt", ".bin")
FILE_CONFIGS = (".json", ".yaml", ".yml")
IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True)
class StoredModel:
    """A model in files.

    kind: what the files are, in words. params: our tensors, each read on access. dtypes: the code
    in which each is stored, like F32 or BF16. files: companion files by name. ids: special tokens
    of its config. notes: for the user. adapted: whether adapters are merged into params. ignored:
    unknown fields of its config that were passed over. family: in whose layout its tensors are, as
    `make_layout` takes it.
    """

    path: Path
    kind: str
    spec: ModelSpec
    params: Tensors
    dtypes: Mapping[str, str]
    files: Mapping[str, bytes] = field(default_factory=dict)
    ids: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    adapted: bool = False
    ignored: tuple[str, ...] = ()
    family: str = "hermes"


def open_model(
    path: Path,
    *,
    config: Path | None = None,
    ignore_fields: Iterable[str] = (),
    use_ema: bool = False,
) -> StoredModel:
    """Open a model of any supported kind.

    path: a checkpoint or run of hermes, a Hugging Face or litgpt folder, a .safetensors file, a
    file of torch.save, or hf://OWNER/REPO, which is downloaded first. config: the architecture,
    where the files do not have it, as config.json, .mal, litgpt's .yaml or a bundled name; the rows
    of the vocabulary are the weights'. A folder's own must be that of the .mal or name.
    ignore_fields: fields of the configuration that hermes does not know and that are to be passed
    over. use_ema: of a checkpoint of hermes, take the average of its weights. Raises
    CheckpointError, SpecError, StorageError, MissingBackend, and for the Hub HermesError.
    """
    local, notes = resolve_hub_path(path)
    source = _open(local, config, tuple(ignore_fields), use_ema)
    notes += _note_links(local)
    return replace(source, notes=notes + source.notes) if notes else source


def _open(
    path: Path, config: Path | None, ignore: tuple[str, ...], use_ema: bool = False
) -> StoredModel:
    if path.is_dir():
        of_run = None if config is None else _find_spec_of_run(config)
        if config is not None and of_run is None:
            if config.suffix in FILE_CONFIGS:
                raise HermesError(
                    f"{path} is a folder, which has its own config; leave --config out"
                )
            return _require_named(_open(path, None, ignore, use_ema), config)
        if (path / MANIFEST).exists() or list_steps(path):
            found = _open_checkpoint(path, use_ema)
            if of_run is not None:
                require_model(
                    found.path, found.spec, of_run, f"--config {config} is of another run"
                )
            return found
    if use_ema:
        raise CheckpointError(f"{path} is no checkpoint of a run, so it has no average of weights")
    if path.is_dir():
        # litgpt leaves the config.json of the model that it trained further beside its own files.
        if (path / LITGPT).exists() and not has_weights(path):
            return _open_torch(path / LITGPT, config, ignore)
        _refuse_litgpt_adapter(path)
        if (path / CONFIG).exists():
            return _open_folder(path, ignore)
        raise CheckpointError(f"{_say_no_model(path)}: it has no {MANIFEST}, {CONFIG} or {LITGPT}")
    if not path.exists():
        raise CheckpointError(describe_missing_model(path))
    if path.suffix == ".safetensors":
        return _open_weights(path, config, ignore)
    if path.suffix in TORCH_ENDINGS:
        return _open_torch(path, config, ignore)
    raise CheckpointError(
        f"{_say_no_model(path)}: a file must end in .safetensors, {', '.join(TORCH_ENDINGS)}"
    )


def _say_no_model(path: Path) -> str:
    kind = describe_kind(path)
    return f"{path} is {kind + ', and ' if kind else ''}no model hermes reads"


def _require_named(source: StoredModel, name: Path) -> StoredModel:
    """The model, which has the architecture that `name` has, save the vocabulary, or is refused."""
    named = replace(_read_architecture(name, ()).spec, vocab_size=source.spec.vocab_size)
    advice = f"name that one as the architecture, not {name}, or none"
    require_model(source.path, source.spec, named, advice)
    return source


def _refuse_litgpt_adapter(path: Path) -> None:
    """Refuse a folder of litgpt's that has an adapter alone, with what makes a model of it."""
    for kind in LITGPT_ADAPTERS:
        if not (path / f"{LITGPT}.{kind}").exists() or has_weights(path):
            continue
        advice = "hermes reads no such adapters; train with LoRA or whole"
        if kind == "lora":
            advice = f"merge it first: litgpt merge_lora {path}"
        raise CheckpointError(f"{path} has litgpt's {LITGPT}.{kind} without its model; {advice}")


def _find_spec_of_run(config: Path) -> ModelSpec | None:
    """Find the model that RUN/config.json stands for in a run of hermes; None for all else."""
    folder = resolve_run_name(config)
    if folder == config or config.name != CONFIG:
        return None
    return mal.load(folder / SPEC)


def _open_checkpoint(path: Path, use_ema: bool) -> StoredModel:
    found, skipped = locate(path)
    weights = read_weights(found.path)
    stored, dtypes = unpack(weights, found.spec, "hermes", str(found.path))
    params = found.params if found.has_adapters else stored
    if use_ema:
        params = found.averaged_params
    return StoredModel(
        found.path,
        "hermes checkpoint",
        found.spec,
        params,
        dtypes,
        read_companions(found.path),
        _read_token_ids(found.companions.config),
        note_skipped(skipped),
        found.has_adapters,
    )


def _note_links(path: Path) -> tuple[str, ...]:
    """Name the files of a model's folder that lie elsewhere, or nowhere; its sender chose them.

    The cache of the Hub is made of links, from snapshots/COMMIT to blobs beside it.
    """
    if not path.is_dir():
        return ()
    here = Path(os.path.realpath(path))
    inside = (here, here.parent.parent / "blobs")
    links = {
        entry: Path(os.path.realpath(entry))  # Path.resolve raises where links form a loop
        for entry in list_folder(path)
        if entry.is_symlink()
    }
    return tuple(
        f"{entry} is a link to {target}, {'outside of the model' if entry.exists() else 'nowhere'}"
        for entry, target in links.items()
        if not entry.exists() or not any(target.is_relative_to(one) for one in inside)
    )


def note_skipped(skipped: Iterable[SkippedCheckpoint]) -> tuple[str, ...]:
    """Notes on checkpoints that were passed over."""
    return tuple(f"passed over {skip.path.name}: {skip.reason}" for skip in skipped)


@dataclass(frozen=True)
class _Architecture:
    """What a configuration says. family: of the tensors' layout. wrapped: as in `ReadConfig`."""

    spec: ModelSpec
    family: str
    ids: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    wrapped: bool = False


def _make_model(
    path: Path, kind: str, source: TensorSource, found: _Architecture, companions: Path
) -> StoredModel:
    """Make the model of a file's tensors under what its configuration says."""
    if found.wrapped and not any("lm_head" in name for name in source.infos):
        # Whether a head is tied stands in different places of a wrapper's configuration.
        tied = replace(found.spec.embeddings, tie_weights=True)
        found = replace(found, spec=replace(found.spec, embeddings=tied))
    params, dtypes = unpack(source, found.spec, found.family, str(path), wrapped=found.wrapped)
    return StoredModel(
        path,
        kind,
        found.spec,
        params,
        dtypes,
        read_companions(companions),
        found.ids,
        found.notes,
        ignored=found.ignored,
        family=found.family,
    )


def _open_folder(path: Path, ignore: tuple[str, ...]) -> StoredModel:
    # A checkpoint of hermes that lost its manifest: model.mal is more exact than config.json.
    if (path / SPEC).exists():
        found = _Architecture(mal.load(path / SPEC), "hermes", _read_config_ids(path / CONFIG))
    else:
        found = _read_architecture(path / CONFIG, ignore)
    source, notes = read_folder(path)
    found = replace(found, notes=found.notes + notes)
    return _make_model(path, f"Hugging Face folder, {found.family}", source, found, path)


def _open_weights(path: Path, config: Path | None, ignore: tuple[str, ...]) -> StoredModel:
    near = path.with_name(CONFIG)
    if config is None and not near.exists():
        raise CheckpointError(f"{path} holds weights only; name their model with --config")
    found, weights = _read_architecture(config or near, ignore), read_weights(path)
    rows = weights.infos.get("model.embed_tokens.weight")
    if found.family == "hermes" and config is not None and rows and len(rows.shape) == 2:
        # A bundled model or MAL file has as many rows as the tokenizer of a run asks for.
        spec, count = found.spec, rows.shape[0]
        if spec.vocab_size != count:
            note = f"vocab_size is {count}, that of {path}; {spec.name} has {spec.vocab_size}"
            spec = replace(spec, vocab_size=count)
            found = replace(found, spec=spec, notes=(*found.notes, note))
    return _make_model(path, f"weights, {found.family}", weights, found, path.parent)


def _open_torch(path: Path, config: Path | None, ignore: tuple[str, ...]) -> StoredModel:
    file = TorchFile(path)
    args = file.extras.get("model_args")
    near, beside = path.with_name(LITGPT_CONFIG), path.with_name(CONFIG)
    if config is None and isinstance(args, dict):
        note = (
            "nanoGPT's gelu is read as the exact one; checkpoints from before May 2023 used "
            "gelu_tanh"
        )
        with name_file(path):
            spec = read_nanogpt(args, ignore)
        found = _Architecture(spec, "nanogpt", notes=(note,), ignored=ignore)
    elif config is not None or near.exists() or beside.exists():
        found = _read_architecture(config or (near if near.exists() else beside), ignore)
    else:
        raise CheckpointError(
            f"{path} does not tell its architecture: it has no model_args like nanoGPT's and no "
            f"{LITGPT_CONFIG} or {CONFIG} beside it; name the architecture with --config"
        )
    if "optimizer" in file.extras:
        lost = "the optimizer state is not converted, as it has names of its own"
        found = replace(found, notes=(*found.notes, lost))
    if found.family == "litgpt":
        ids = _read_config_ids(beside) if beside.exists() else {}
        found = replace(found, ids=ids, notes=found.notes + _note_prompt_style(path.parent))
    if found.family == "litgpt" and any(".attn.attn." in name for name in file):
        found = replace(found, family="litgpt-old")
    return _make_model(path, f"{found.family} checkpoint", file, found, path.parent)


def _note_prompt_style(folder: Path) -> tuple[str, ...]:
    """Say that litgpt's prompt style is not read, where the folder has one other than its own."""
    if not (folder / PROMPT_STYLE).exists():
        return ()
    name = parse_object(read_small(folder / PROMPT_STYLE), str(folder / PROMPT_STYLE)).get(
        "class_path"
    )
    return (f"litgpt's prompt style {name!r} is not read; chat as it was trained with --template",)


def _read_architecture(path: Path, ignore: tuple[str, ...]) -> _Architecture:
    """Read any kind of configuration."""
    of_run = _find_spec_of_run(path)
    if of_run is not None:
        return _Architecture(of_run, "hermes")
    match path.suffix:
        case ".json":
            values = parse_object(read_small(path), str(path))
            with name_file(path):
                read = read_any_config(values, ignore)
            return _Architecture(
                read.spec, read.family, _read_token_ids(values), read.notes, ignore, read.wrapped
            )
        case ".mal":
            return _Architecture(mal.load(path), "hermes")
        case ".yaml" | ".yml":
            values = read_value_mapping(path)
            with name_file(path):
                spec = read_litgpt(values, str(path), ignore)
            return _Architecture(spec, "litgpt", ignored=ignore)
    if path.suffix and not path.is_dir():
        raise HermesError(f"--config {path} must end in .json, .mal or .yaml")
    if not path.is_dir():
        return _Architecture(mal.load(str(path)), "hermes")
    steps = list_steps(path)
    folder = steps[0][1] if steps else path
    if (folder / SPEC).is_file():
        return _Architecture(mal.load(folder / SPEC), "hermes")
    return _read_architecture(folder / CONFIG, ignore)


def _read_config_ids(path: Path) -> dict[str, Any]:
    return _read_token_ids(parse_object(read_small(path), str(path)))


def _read_token_ids(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: config.get(name) for name in IDS}

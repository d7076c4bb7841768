"""Opens checkpoint folders, verifying them before anything in them is used."""

from collections.abc import Mapping
from pathlib import Path

from hermes.checkpoint.adapters import open_own_adapter
from hermes.checkpoint.compatibility import require_vocabulary
from hermes.checkpoint.layout import (
    CONFIG,
    GENERATION_CONFIG,
    OPTIMIZER,
    PROGRESS,
    SPEC,
    TOKENIZER,
    TOKENIZER_CONFIG,
    TOKENIZER_MANIFEST,
    Companions,
)
from hermes.checkpoint.manifest import Manifest, read_manifest, verify_files
from hermes.checkpoint.progress import Progress, read_progress
from hermes.checkpoint.weights import TensorView, match_to_spec, read_moments, read_weights
from hermes.errors import CheckpointError, SpecError
from hermes.interface import Tensors, TrainState
from hermes.mal import loads
from hermes.numerics.lora import merge_adapters
from hermes.numerics.update_rules import EMA, list_state_shapes
from hermes.recipe import Lora
from hermes.spec import ModelSpec
from hermes.storage.reading import read_small
from hermes.storage.safetensors import TensorFile
from hermes.storage.strict_json import Json, parse_json

__all__ = ["Checkpoint", "open_checkpoint", "verify"]


class Checkpoint:
    """An opened checkpoint; its tensors are read when they are accessed.

    spec, params and companions are always there; progress and state only where a run wrote it.
    manifest: None for a bare file of weights. params: the weights with adapters, if any, merged in;
    `state` has base weights and adapters apart.
    """

    def __init__(
        self,
        path: Path,
        spec: ModelSpec,
        params: Tensors,
        *,
        companions: Companions,
        manifest: Manifest | None = None,
        progress: Progress | None = None,
        moments: Mapping[str, Tensors] | None = None,
        parts: Tensors | None = None,
    ):
        self.path = path
        self.spec = spec
        self.params = params
        self.companions = companions
        self.manifest = manifest
        self._progress = progress
        self._moments = moments
        self._parts = params if parts is None else parts

    @property
    def has_adapters(self) -> bool:
        """Whether params have adapters merged in."""
        return self._parts is not self.params

    @property
    def averaged_params(self) -> Tensors:
        """The average of the weights, adapters merged in. Raises CheckpointError without one."""
        average = (self._moments or {}).get(EMA)
        if average is None:
            raise CheckpointError(
                f"{self.path} has no average of its weights; train with --ema to keep one"
            )
        parts, lora = self._parts, self.progress.recipe.lora
        whole = TensorView(
            tuple(parts), lambda name: average[name] if name in average else parts[name]
        )
        return merge_adapters(self.spec, whole, lora) if lora else whole

    @property
    def resumable(self) -> bool:
        """Whether a run can be resumed from it: it has progress and moments."""
        return self._progress is not None and self._moments is not None

    @property
    def tokenizer_json(self) -> str | None:
        """The text of tokenizer.json or None.

        Raises CheckpointError where it has more tokens than the model has embedding rows.
        """
        text = self.companions.tokenizer_json
        if text is not None:
            require_vocabulary(text.encode("utf-8"), self.spec, str(self.path / TOKENIZER))
        return text

    @property
    def progress(self) -> Progress:
        """How far the run was. Raises CheckpointError where no run wrote the checkpoint."""
        if self._progress is None:
            raise CheckpointError(
                f"{self.path} has no {PROGRESS}, so no run can be resumed from it"
            )
        return self._progress

    @property
    def state(self) -> TrainState:
        """Weights and moments, read lazily. Raises CheckpointError where there are no moments."""
        if self._moments is None:
            raise CheckpointError(
                f"{self.path} has no {OPTIMIZER}, so no run can be resumed from it"
            )
        at = self.progress
        return TrainState.from_slots(self._parts, self._moments, at.step, at.loss_scale)


def verify(path: Path, *, hashes: bool = True) -> Manifest:
    """Check a checkpoint folder against its manifest: names, sizes and, with `hashes`, contents.

    Raises CheckpointError, StorageError.
    """
    manifest = read_manifest(path)
    verify_files(path, manifest, hashes=hashes)
    return manifest


def open_checkpoint(path: Path, *, hashes: bool = True) -> Checkpoint:
    """Verify and open a checkpoint folder; without `hashes` the contents of files are trusted.

    Raises CheckpointError, StorageError.
    """
    manifest = verify(path, hashes=hashes)
    files = manifest.files
    for name in (CONFIG, SPEC):
        if name not in files:
            raise CheckpointError(f"checkpoint {path} has no {name}")
    try:
        spec, parts, progress, moments = _read_contents(path, manifest)
    except SpecError as error:
        raise CheckpointError(f"checkpoint {path} cannot be read: {error}") from error
    lora = progress.recipe.lora if progress else None
    return Checkpoint(
        path,
        spec,
        merge_adapters(spec, parts, lora) if lora else parts,
        parts=parts,
        companions=_read_companions(path, manifest),
        manifest=manifest,
        progress=progress,
        moments=moments,
    )


def _read_contents(
    path: Path, manifest: Manifest
) -> tuple[ModelSpec, Tensors, Progress | None, Mapping[str, Tensors] | None]:
    """Read architecture, weights and, where a run wrote them, progress and moments."""
    spec = loads(read_small(path / SPEC), file=str(path / SPEC))
    params = match_to_spec(read_weights(path), spec, str(path))
    progress, moments = None, None
    if PROGRESS in manifest.files:
        progress = read_progress(
            read_small(path / PROGRESS), str(path / PROGRESS), manifest.version
        )
        if (progress.run, progress.step) != (manifest.run, manifest.step):
            raise CheckpointError(
                f"checkpoint {path} is of step {manifest.step} by its manifest, "
                f"of step {progress.step} or another run by its {PROGRESS}"
            )
    if progress and progress.recipe.lora:
        params = _add_adapters(path, spec, params, progress.recipe.lora)
    if progress and OPTIMIZER in manifest.files:
        shapes = list_state_shapes(spec, progress.recipe)
        moments = read_moments(TensorFile(path / OPTIMIZER), shapes)
    return spec, params, progress, moments


def _add_adapters(path: Path, spec: ModelSpec, params: Tensors, lora: Lora) -> Tensors:
    """Add a run's adapters, under their own names, to the base weights."""
    adapters = open_own_adapter(path, spec, lora)
    names = (*params, *adapters)
    return TensorView(names, lambda name: adapters[name] if name in adapters else params[name])


def _read_companions(path: Path, manifest: Manifest) -> Companions:
    def document(name: str) -> dict[str, Json] | None:
        if name not in manifest.files:
            return None
        value = parse_json(read_small(path / name), str(path / name))
        if not isinstance(value, dict):
            raise CheckpointError(f"{path / name} must hold an object")
        return value

    tokenizer = None
    if TOKENIZER in manifest.files:
        try:
            tokenizer = read_small(path / TOKENIZER).decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(
                f"{path / TOKENIZER} is not UTF-8 at byte {error.start}"
            ) from None
    return Companions(
        tokenizer_json=tokenizer,
        tokenizer_config=document(TOKENIZER_CONFIG),
        config=document(CONFIG) or {},
        generation_config=document(GENERATION_CONFIG),
        tokenizer_manifest=document(TOKENIZER_MANIFEST),
    )

"""What a run is asked to be, and what it is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hermes.checkpoint import RetentionPolicy
from hermes.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from hermes.interface import Backend, Options, Tensors
from hermes.recipe import Recipe
from hermes.spec import ModelSpec
from hermes.tokenizer import Tokenizer
from hermes.training.events import Position
from hermes.training.training_data import TrainingData

__all__ = ["InitialModel", "RunComponents", "RunRequest", "device"]


@dataclass(frozen=True)
class InitialModel:
    """A model to begin from instead of fresh weights. notes: what its user should hear."""

    spec: ModelSpec
    params: Tensors
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class RunRequest:
    """What a run is asked to be.

    spec, tokenizer: None for the run's own, where it goes on. given: fields of the recipe by name
    ("lr", "optimizer.beta2"); the others are the checkpoint's, or the defaults. log_every None: as
    `default_log_every` says. settings and sources: what run.yaml says beside the recipe, and what
    set each value. start: what a new run begins from, its spec in place of `spec`. material: makes
    what is learnt from, where that is not the text of `data`. tokenizer_settings: what other tools
    read as tokenizer_config.json, where it is not the usual. allow_batch_change: an update may take
    other samples than before. processes: all that make this run. split_among: how many processes
    the batch_size and grad_accum given are of; None for these.
    """

    output: Path
    data: tuple[str, ...]
    backend: Backend
    spec: ModelSpec | None = None
    tokenizer: Tokenizer | None = None
    options: Options = field(default_factory=Options)
    given: Mapping[str, object] = field(default_factory=dict)
    resume: bool = False
    allow_batch_change: bool = False
    log_every: int | None = None
    keep: RetentionPolicy = field(default_factory=RetentionPolicy)
    text_field: str = "text"
    file_format: str | None = None
    settings: Mapping[str, object] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    start: InitialModel | None = None
    material: Callable[[ModelSpec, Tokenizer, Recipe], TrainingData] | None = None
    tokenizer_settings: Mapping[str, Any] | None = None
    process_group: ProcessGroup = SINGLE_PROCESS
    split_among: int | None = None


def device(request: RunRequest) -> str:
    """The device that the run trains on."""
    return request.options.device or request.backend.devices()[0]


@dataclass(frozen=True)
class RunComponents:
    """What a run is made of. notes: sentences that its user should hear."""

    spec: ModelSpec
    tokenizer: Tokenizer
    recipe: Recipe
    material: TrainingData
    position: Position
    total_steps: int
    notes: tuple[str, ...]

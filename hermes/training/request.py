"""What a run is asked to be, and the components it is made of."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hermes.checkpoint import RetentionPolicy
from hermes.data.holding_out import HOLD_OUT
from hermes.data.loading import DataOptions
from hermes.distributed.process_group import SINGLE_PROCESS, ProcessGroup
from hermes.errors import HermesError
from hermes.interface import Backend, Options, Tensors
from hermes.recipe import Recipe
from hermes.spec import ModelSpec
from hermes.tokenizer import Tokenizer
from hermes.tracking.tracker import MakeTracker
from hermes.training.events import Position
from hermes.training.recording import check_log_every
from hermes.training.samples import SampleOptions
from hermes.training.save_timer import SaveTimer
from hermes.training.task_rounds import TaskRounds
from hermes.training.training_data import TrainingData

__all__ = ["InitialModel", "MakeData", "RowOptions", "RunComponents", "RunRequest"]

MakeData = Callable[[ModelSpec, Tokenizer, Recipe, ProcessGroup], TrainingData]


@dataclass(frozen=True)
class InitialModel:
    """A model to start from instead of fresh weights.

    notes: sentences for the user. change_adapters: makes the first values of the adapters of fresh
    ones and of the tokens with rows among them; None for these.
    """

    spec: ModelSpec
    params: Tensors
    notes: tuple[str, ...] = ()
    change_adapters: Callable[[Tensors, tuple[int, ...]], Tensors] | None = None


@dataclass(frozen=True)
class RowOptions:
    """How text is laid out in rows.

    pack: rows are filled with documents, else each has one, padded. overlong: what becomes of
    documents longer than such a row: 'error', 'drop' or 'truncate'. hold_out: what the fraction
    for validation is of: the last 'windows', or the last whole 'documents'.
    """

    pack: bool = True
    overlong: str = "error"
    hold_out: str = "windows"

    def __post_init__(self) -> None:
        if self.hold_out not in HOLD_OUT:
            raise HermesError(
                f"--hold-out is {self.hold_out!r}; it must be one of {', '.join(HOLD_OUT)}"
            )

    def describe(self) -> str:
        """What makes samples of tokens, for the fingerprint; "" for packed windows."""
        if not self.pack:
            return f"/documents/{self.overlong}"
        return "" if self.hold_out == "windows" else "/held out documents"


@dataclass(frozen=True)
class RunRequest:
    """What a run is asked to be.

    spec, tokenizer: None for the run's own, when resuming. initial_model: what a new run starts
    from, its spec in place of `spec`. given: recipe fields that were asked for, by name ("lr",
    "optimizer.beta2"); the others are the checkpoint's, or the defaults. log_every: None for
    `choose_log_every`. settings, sources: what run.yaml says besides the recipe, and what set each
    value. data_options, validation, rows: how the text of `data` is read, what is held out besides,
    and how it is laid out.
    make_data: makes the training data where it is not that text. allow_data_change: a resumed run
    may take other data.
    tokenizer_settings: the tokenizer_config.json written for other tools; None for the usual one.
    allow_batch_change: a resumed run may take another number of samples per step. split_among: the
    number of ranks that the given batch_size and grad_accum are meant for; None for these.
    save_minutes, save_every_epoch: further checkpoints. patience, min_delta: as in EarlyStopping.
    on_nonfinite: as in NonFinitePolicy. on_spike, spike_sigma, spike_window: as in SpikePolicy.
    gradient_noise_scale: measure it, which needs several micro-batches a step.
    samples: text to make on the way. tasks: what the model is evaluated on besides. trackers:
    follow the run in rank 0, by name, in the project track_project. cooldown_from: a checkpoint
    that a run without one continues with a falling learning rate. force: try what memory or disk
    seem too small for. dry_run: check everything, and train nothing. auto_batch: split the samples
    of a step into micro-batches that fit. on_model: called once the model is settled, before data
    is read; not of a finished run.
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
    data_options: DataOptions = field(default_factory=DataOptions)
    validation: tuple[str, ...] = ()
    rows: RowOptions = field(default_factory=RowOptions)
    allow_data_change: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    initial_model: InitialModel | None = None
    make_data: MakeData | None = None
    tokenizer_settings: Mapping[str, Any] | None = None
    process_group: ProcessGroup = SINGLE_PROCESS
    split_among: int | None = None
    save_minutes: float = 0.0
    save_every_epoch: bool = False
    patience: int = 0
    min_delta: float = 0.0
    on_nonfinite: str = "stop"
    on_spike: str = "ignore"
    spike_sigma: float = 6.0
    spike_window: int = 128
    gradient_noise_scale: bool = False
    samples: SampleOptions = field(default_factory=SampleOptions)
    tasks: TaskRounds | None = None
    trackers: Mapping[str, MakeTracker] = field(default_factory=dict)
    track_project: str = "hermes"
    cooldown_from: Path | None = None
    force: bool = False
    dry_run: bool = False
    auto_batch: bool = False
    on_model: Callable[["RunRequest", ModelSpec, Recipe], None] = lambda request, spec, recipe: None

    def __post_init__(self) -> None:
        check_log_every(self.log_every)
        SaveTimer(self.save_minutes)  # which refuses what is no time

    @property
    def device(self) -> str:
        """The device that the run trains on."""
        return self.options.device or self.backend.devices()[0]

    @property
    def world_size(self) -> int:
        """The number of ranks."""
        return self.process_group.rank_info.world_size


@dataclass(frozen=True)
class RunComponents:
    """What a run is made of. notes: sentences for the user."""

    spec: ModelSpec
    tokenizer: Tokenizer
    recipe: Recipe
    training_data: TrainingData
    position: Position
    total_steps: int
    notes: tuple[str, ...]

"""The interface between hermes and a backend; nothing else is shared.

A backend takes NumPy arrays, Python numbers and frozen dataclasses, and returns the same. Backends
are values, found through the entry-point group `hermes.backends` and passed as arguments: there is
no current backend, and one process may use two. How to write one: `specs/backend.md`.

Letters: A micro-batches of one step, B sequences, T positions, V vocabulary.
"""

import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Protocol, SupportsFloat, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hermes.arguments import SHORT_NAMES, convert_fields
from hermes.decoders import (
    Array,
    ChoosesAhead,
    ChoosesTokens,
    Decoder,
    DecodesInvariantRows,
    DecodesOnDevice,
    DecodesRows,
    KeepsRows,
    RowDecoder,
    Tensors,
    TokenChoice,
    WritesAhead,
)
from hermes.distributed.process_group import ProcessGroup, RankInfo
from hermes.errors import HermesError, MissingBackend, explain_exhaustion
from hermes.recipe import Preference, Recipe
from hermes.spec import ModelSpec
from hermes.stages import report_stage

__all__ = [
    "IGNORE",
    "PRECISIONS",
    "SHARDS",
    "SHORT_NAMES",
    "Array",
    "Backend",
    "Batch",
    "ChoosesAhead",
    "ChoosesTokens",
    "Decoder",
    "DecodesInvariantRows",
    "DecodesOnDevice",
    "DecodesRows",
    "DeviceInfo",
    "KeepsRows",
    "LazyTensors",
    "Learner",
    "LossCounts",
    "LossScale",
    "Model",
    "Options",
    "PreferencePairs",
    "RowDecoder",
    "StepReport",
    "Tensors",
    "TokenChoice",
    "TrainState",
    "WritesAhead",
    "check_batch",
    "check_tokens",
    "choose_backend",
    "detect_default_backend",
    "find_backend",
    "list_backends",
]

IGNORE = -1
PRECISIONS = ("float32", "tf32", "bfloat16", "float16", "float64")
SHARDS = ("full", "optimizer")
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Options:
    """Where and how fast a model runs; no field changes a result beyond rounding.

    device: one of Backend.devices(), or None for the backend's choice. precision: dtype of matrix
    products and activations; master weights and moments are float32 (float64 under float64);
    'float16' trains with a loss scale, which decides what steps are left out. 'tf32'
    is float32 whose products may round their inputs to 10 bits of mantissa; refused on devices
    without it. compile: None compiles where it pays. grad_checkpoint: activation checkpointing.
    selective_checkpoint: the same, but outputs of matrix products and of attention are kept.
    deterministic: bitwise equal results in every run; refused where the device cannot. exact:
    slower elementwise functions, accurate to the last bits of float64; always on under float64.
    as_trained: a built model computes bit for bit what a learner does, where inference would have a
    faster way; the reference model of a preference loss is built so.
    shard: how tensors are split over ranks: 'full' (weights, gradients and optimizer state),
    'optimizer' (its state alone) or None. Evaluating a sharded model and reading its tensors are
    collective operations. shard_group: number of neighbouring ranks that hold one copy; None for
    all ranks.
    """

    device: str | None = None
    precision: str = "float32"
    compile: bool | None = None
    grad_checkpoint: bool = False
    selective_checkpoint: bool = False
    deterministic: bool = False
    exact: bool = False
    as_trained: bool = False
    shard: str | None = None
    shard_group: int | None = None

    def __post_init__(self) -> None:
        convert_fields(self)
        full = SHORT_NAMES.get(self.precision, self.precision)
        object.__setattr__(self, "precision", full)
        if self.grad_checkpoint and self.selective_checkpoint:
            raise HermesError(
                "grad_checkpoint keeps no activation of a block, and selective_checkpoint some of "
                "them; leave one out"
            )
        if self.shard not in (None, *SHARDS):
            raise HermesError(f"shard is {self.shard!r}; it must be one of {', '.join(SHARDS)}")
        if self.shard_group is not None and self.shard is None:
            raise HermesError(f"shard_group is {self.shard_group}, but shard is not set")
        if self.precision not in PRECISIONS:
            raise HermesError(
                f"precision is {self.precision!r}; it must be one of {', '.join(PRECISIONS)}"
            )


@dataclass(frozen=True)
class DeviceInfo:
    """What one of Backend.devices() is, as far as its framework says.

    kind: 'cpu', 'cuda' or 'metal'. name: its maker's, as in 'NVIDIA H200'. capability: the compute
    capability of a CUDA device, (0, 0) where it is not known. precision: the only one that it
    computes in, None for a choice.
    """

    kind: str = "cpu"
    name: str = ""
    capability: tuple[int, int] = (0, 0)
    precision: str | None = None


@dataclass(frozen=True)
class PreferencePairs:
    """What a batch of preference pairs carries besides its tokens.

    Row b of the first half of B is a chosen completion, row b of the second half its rejected one.
    reference (A, B): each row's summed log-probability of its targets under the reference model, in
    nats; zeros where the loss needs no reference. rule: the preference loss. Dropout is off in such
    a batch, as it is in the reference.
    """

    reference: NDArray[np.float64]
    rule: Preference


@dataclass(frozen=True)
class LossCounts:
    """Totals of a step over all ranks.

    terms: the number of losses that are averaged: targets, or pairs under a preference loss.
    targets: the targets that are not IGNORE, on both sides of a pair. weight: the sum of their
    weights, or the pairs', None where each has 1.
    """

    terms: int
    targets: int
    weight: float | None = None

    @property
    def divisor(self) -> float:
        """What the summed loss is divided by."""
        return self.terms if self.weight is None else self.weight


@dataclass(frozen=True)
class Batch:
    """All micro-batches of one optimizer step, or one rank's share of them.

    tokens (A, B, T): input ids. targets (A, B, T): the id that follows each, or IGNORE where it
    takes no part in the loss. rows (A, B): each sample's index within the step over all ranks,
    which keys its dropout masks. segments (A, B, T): None, or the document of each token; attention
    and positions stay inside a document. pairs: None, or what a preference loss needs.
    global_counts: totals of the step over all ranks; None where this batch is all of it. weights
    (A, B, T): None, or the weight of each target in the loss, which is divided by their sum; of
    pairs (A, B), the same for both rows of a pair. sources (A, B): None, or which of a mixture's
    sources each row is from; a step then reports the rows' log-probabilities. Not with pairs or
    weights. measures_noise: whether a step reports its first_norm. loss_limit: a number of float32;
    a step whose loss is above it is not applied. None where all are, and it is not reported.
    """

    tokens: NDArray[np.int32]
    targets: NDArray[np.int32]
    rows: NDArray[np.uint32]
    segments: NDArray[np.int32] | None = None
    pairs: PreferencePairs | None = None
    global_counts: LossCounts | None = None
    weights: NDArray[np.float32] | None = None
    sources: NDArray[np.int32] | None = None
    measures_noise: bool = False
    loss_limit: float | None = None

    @property
    def counts(self) -> LossCounts:
        """Totals of the whole step, over all ranks."""
        return self.global_counts or self.own_counts

    @property
    def own_counts(self) -> LossCounts:
        """Totals of this batch alone."""
        weight = None
        if self.weights is not None and self.pairs is not None:
            pairs = self.targets.shape[1] // 2
            has_targets = (self.targets[:, :pairs] != IGNORE).any(axis=-1)
            weight = float(self.weights[:, :pairs][has_targets].sum(dtype=np.float64))
        elif self.weights is not None:
            weight = float(self.weights[self.targets != IGNORE].sum(dtype=np.float64))
        return LossCounts(self.num_terms, self.num_targets, weight)

    def get_weights(self) -> NDArray[np.float32]:
        """The weight of each target, 1 where none are given. (A, B, T); not of pairs"""
        return np.ones(self.targets.shape, np.float32) if self.weights is None else self.weights

    @property
    def num_targets(self) -> int:
        """Targets of this batch that are not IGNORE, on both sides of a pair."""
        return int((self.targets != IGNORE).sum())

    @property
    def num_terms(self) -> int:
        """Terms of the loss in this batch: targets, or pairs whose chosen row has one."""
        if self.pairs is None:
            return self.num_targets
        has_target = (self.targets != IGNORE).any(axis=-1)  # (A, B)
        return int(has_target[:, : has_target.shape[1] // 2].sum())


@dataclass(frozen=True)
class LossScale:
    """What a learner under float16 multiplies the loss by, and for how many finite steps it has.

    scale: of the next step. good_steps: steps in a row with finite gradients since it last changed.
    `hermes.recipe.LossScaling` has the rule.
    """

    scale: float
    good_steps: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.scale < float("inf") or self.good_steps < 0:
            raise HermesError(
                f"a loss scale is above 0, and its good steps are at least 0, got {self.scale} and "
                f"{self.good_steps}"
            )


@dataclass(frozen=True)
class StepReport:
    """The outcome of an optimizer step. Its numbers are lazy: reading one waits for the device.

    loss: mean over the batch before the update, in nats per target (or the loss per pair).
    grad_norm: global, before clipping. If either is not finite, the update was not applied.
    row_logprobs: of a batch with pairs or sources, each row's summed log-probability of its
    targets, (A, B), by np.asarray; of this rank's rows alone. loss_scale: what the loss was
    multiplied by for the gradients, under float16; loss and grad_norm are without it. first_norm:
    of a batch that measures noise and has several micro-batches, the norm of what the first of them
    adds to the gradient; of this rank's own, and without the loss scale. applied: of a batch with a
    loss_limit, 1 where the update was applied, and 0 where it was not. runs_ahead: whether the
    device may still be computing the step; its numbers wait for this step alone, so that reading
    them behind the next one leaves the device no pause.
    """

    step: int
    loss: SupportsFloat
    grad_norm: SupportsFloat
    row_logprobs: ArrayLike | None = None
    loss_scale: SupportsFloat | None = None
    first_norm: SupportsFloat | None = None
    applied: SupportsFloat | None = None
    runs_ahead: bool = False


@dataclass(frozen=True)
class TrainState:
    """Weights and what the optimizer keeps, both by parameter name, and the number of steps done.

    exp_avg, exp_avg_sq: first and second moments of the tensors that have them. more: the other
    slots of `hermes.numerics.update_rules`, by name. What is not there counts as zeros.
    can_reread: whether params can be read at any later time, from any thread, and are the same
    then, as those of a file; frozen ones need not be kept whole in memory. loss_scale: of a learner
    under float16; others leave it aside.
    """

    params: Tensors
    exp_avg: Tensors
    exp_avg_sq: Tensors
    step: int
    more: Mapping[str, Tensors] = field(default_factory=dict)
    can_reread: bool = False
    loss_scale: LossScale | None = None

    @classmethod
    def from_slots(
        cls,
        params: Tensors,
        slots: Mapping[str, Tensors],
        step: int,
        loss_scale: LossScale | None = None,
    ) -> "TrainState":
        """The state with what the optimizer keeps by slot."""
        more = {slot: held for slot, held in slots.items() if slot not in MOMENTS}
        first, second = (slots.get(slot, {}) for slot in MOMENTS)
        return cls(params, first, second, step, more, loss_scale=loss_scale)

    @property
    def slots(self) -> Mapping[str, Tensors]:
        """What the optimizer keeps, by slot; those in use alone."""
        both = dict(zip(MOMENTS, (self.exp_avg, self.exp_avg_sq), strict=True))
        return {slot: held for slot, held in {**both, **self.more}.items() if held}


class Model(Protocol):
    """A model built for inference. Logits are float32, or float64 under float64."""

    spec: ModelSpec

    def logits(
        self, tokens: NDArray[np.integer], segments: NDArray[np.integer] | None = None
    ) -> NDArray[np.floating]:
        """Logits of the next token at every position. (B, T) -> (B, T, V)."""
        ...

    def logprobs(
        self, tokens: NDArray[np.integer], targets: NDArray[np.integer]
    ) -> NDArray[np.floating]:
        """Log-probability of each target in nats, 0 where it is IGNORE. (B, T) -> (B, T)."""
        ...

    def row_logprobs(
        self, tokens: NDArray[np.integer], targets: NDArray[np.integer]
    ) -> NDArray[np.floating]:
        """Summed log-probability of each row's targets, in training's order of sums. -> (B,).

        The rows are preference pairs, so B is even: chosen rows first, then the rejected ones.
        """
        ...

    def loss(self, batch: Batch) -> float:
        """Mean loss over all micro-batches, without dropout."""
        ...

    def preferences(self, batch: Batch) -> tuple[float, NDArray[np.floating]]:
        """Loss and row_logprobs of a batch of pairs, from one forward pass. -> (), (A, B)."""
        ...

    def decoder(self, batch_size: int, capacity: int) -> Decoder:
        """An empty KV cache for `batch_size` rows of at most `capacity` tokens."""
        ...

    def params(self) -> Tensors:
        """The weights, one tensor at a time, in master precision."""
        ...


class Learner(Model, Protocol):
    """A model with gradients and optimizer state.

    In a distributed run each rank is given its share of a batch; loss and gradients are those of
    the whole step, equal on all ranks.
    """

    def grads(self, batch: Batch) -> tuple[float, Tensors]:
        """Loss and gradient of every trained tensor, with the dropout masks of the next step."""
        ...

    def step(self, batch: Batch, lr: float) -> StepReport:
        """Take one optimizer step from all micro-batches: gradients, clipping, update."""
        ...

    def digests(self) -> Mapping[str, int]:
        """A hash of each tensor and its moments, by name, to compare ranks."""
        ...

    def use_average(self) -> AbstractContextManager[object]:
        """A context in which the model is the average of the weights, of a recipe with ema."""
        ...

    def state(self) -> TrainState:
        """All that a checkpoint needs to resume from here, on any backend."""
        ...


class Backend(Protocol):
    """An implementation of the specification on one framework."""

    name: str

    def versions(self) -> dict[str, str]:
        """Versions by library, for run records and certificates."""
        ...

    def devices(self) -> tuple[str, ...]:
        """Available devices, the preferred one first."""
        ...

    def join(self, rank_info: RankInfo, options: Options = ...) -> ProcessGroup:
        """Join the process group of the run. Raises Unsupported, PeerLost."""
        ...

    def build(
        self,
        spec: ModelSpec,
        params: Tensors,
        options: Options = ...,
        process_group: ProcessGroup = ...,
    ) -> Model:
        """Build a model for evaluation and decoding. Raises Unsupported, in one sentence.

        process_group: the ranks over which options.shard splits it; without shard, each has all.
        """
        ...

    def learner(
        self,
        spec: ModelSpec,
        state: TrainState,
        recipe: Recipe,
        options: Options = ...,
        process_group: ProcessGroup = ...,
    ) -> Learner:
        """Build a model for training, resumed at `state`. Raises Unsupported, in one sentence."""
        ...


def list_backends() -> list[str]:
    """List the names of all registered backends, whether their framework is installed or not."""
    return sorted({point.name for point in entry_points(group="hermes.backends")})


def find_backend(name: str) -> Backend:
    """Load a backend by name and import its framework. Raises MissingBackend."""
    points = {point.name: point for point in entry_points(group="hermes.backends")}
    if name not in points:
        raise MissingBackend(f"backend {name!r} is unknown; known are {', '.join(sorted(points))}")
    report_stage(f"loading {name}")
    try:
        found = cast(Backend, points[name].load())
    except ImportError as error:
        if exhausted := explain_exhaustion(error):
            raise MissingBackend(f"backend {name!r} cannot be loaded: {exhausted}") from error
        raise MissingBackend(
            f"backend {name!r} is not installed ({error}); pip install 'hermes-llm[{name}]'"
        ) from error
    report_stage("")
    return found


class LazyTensors(Mapping[str, Array]):
    """Tensors by name, each made by `make(name)` when it is read, and not cached.

    Later steps must not change a tensor once made, so that it can be saved without a copy.
    steady: those that any thread may make at any later time, with the same values. stage: begins
    to copy a tensor to the host while the device goes on, and returns what waits for the copy and
    gives it, from any thread; None where `make` is all there is to do.
    """

    def __init__(
        self,
        names: Iterable[str],
        make: Callable[[str], Array],
        steady: Iterable[str] = (),
        stage: Callable[[str], Callable[[], Array]] | None = None,
    ):
        self._names = dict.fromkeys(names)
        self._make = make
        self.steady, self.stage = frozenset(steady), stage

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def check_tokens(spec: ModelSpec, tokens: NDArray[np.generic], length: int | None = None) -> None:
    """Refuse ids outside the vocabulary and sequences beyond max_seq_len.

    Frameworks do not check everywhere: an index out of range is undefined behaviour in MLX.
    length: the sequence's length including tokens already in the cache; None for tokens.shape[-1].
    """
    total = tokens.shape[-1] if length is None else length
    if tokens.ndim < 1 or not np.issubdtype(tokens.dtype, np.integer):
        raise HermesError(f"tokens must be integers in rows, got {tokens.dtype} {tokens.shape}")
    if total > spec.max_seq_len:
        raise HermesError(
            f"a sequence of {total} tokens is longer than max_seq_len {spec.max_seq_len}"
        )
    if tokens.size and not 0 <= int(tokens.min()) <= int(tokens.max()) < spec.vocab_size:
        worst = int(tokens.max()) if int(tokens.max()) >= spec.vocab_size else int(tokens.min())
        raise HermesError(f"token id {worst} is outside the vocabulary of {spec.vocab_size}")


def check_batch(batch: Batch, recipe: Recipe) -> None:
    """Refuse a batch without targets, or one that does not match the run's objective and rule."""
    if batch.counts.terms == 0 or batch.counts.weight == 0:
        raise HermesError("a batch without a single counted target has no loss")
    if batch.weights is not None:
        pairs = batch.pairs is not None
        if batch.weights.shape != (batch.rows.shape if pairs else batch.targets.shape):
            raise HermesError("a batch's weights belong to its targets, one each, or pairs' rows")
        if pairs and (batch.weights != np.roll(batch.weights, batch.rows.shape[1] // 2, 1)).any():
            raise HermesError("both rows of a pair must have the same weight")
        if not (np.isfinite(batch.weights).all() and (batch.weights >= 0).all()):
            raise HermesError("a batch's weights must be numbers that are at least 0")
    if batch.sources is not None and (batch.pairs is not None or batch.weights is not None):
        raise HermesError("a batch's sources belong to rows of text, not to pairs or weights")
    if (batch.pairs is not None) != (recipe.objective == "preference"):
        found = "single sequences" if batch.pairs is None else "pairs"
        raise HermesError(f"the objective is {recipe.objective!r}, but the batch holds {found}")
    if batch.pairs is not None and batch.pairs.rule != recipe.preference:
        raise HermesError(f"the batch's rule is {batch.pairs.rule}, the run's {recipe.preference}")


def detect_default_backend() -> str | None:
    """Detect what "auto" means here: mlx on Apple silicon, torch elsewhere, else the installed one.

    Imports no framework. None where neither is installed.
    """
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    order = ("mlx", "torch") if apple else ("torch", "mlx")
    return next((name for name in order if find_spec(name) is not None), None)


def choose_backend(name: str = "auto") -> Backend:
    """Load a backend by name, or the default one for "auto". Raises MissingBackend."""
    if name != "auto":
        return find_backend(name)
    found = detect_default_backend()
    if found is None:
        raise MissingBackend(
            "no backend is installed; pip install 'hermes-llm[torch]' or 'hermes-llm[mlx]'"
        )
    return find_backend(found)

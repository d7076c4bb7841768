"""The seam: what crosses between hermes and a backend, and nothing else does.

A backend is handed NumPy arrays, Python numbers and frozen dataclasses, and hands the same back.
Backends are values, found through the entry-point group `hermes.backends` and passed in; there is
no current backend, and two in one process is normal. How to write one: `specs/backend.md`.

Letters: A micro-batches of one update, B sequences, T positions, V vocabulary.
"""

import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Protocol, SupportsFloat, cast

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hermes.distributed.process_group import ProcessGroup, RankInfo
from hermes.errors import HermesError, MissingBackend
from hermes.recipe import Preference, Recipe
from hermes.spec import ModelSpec

__all__ = [
    "IGNORE",
    "PRECISIONS",
    "SHARDS",
    "Backend",
    "Batch",
    "Decoder",
    "LazyTensors",
    "Learner",
    "LossCounts",
    "Model",
    "Options",
    "PreferencePairs",
    "StepReport",
    "Tensors",
    "TrainState",
    "check_batch",
    "check_tokens",
    "find_backend",
    "list_backends",
]

IGNORE = -1
PRECISIONS = ("float32", "tf32", "bfloat16", "float16", "float64")
SHARDS = ("full", "optimizer")

Array = NDArray[np.generic]
Tensors = Mapping[str, Array]
"""Tensors by name, each made when it is asked for, so that a large model never exists twice.

float32, or as a file has them: bfloat16 (of ml_dtypes), float16, float64.
"""


@dataclass(frozen=True)
class Options:
    """Where and how fast, never what: no field changes a number beyond rounding.

    device: None for the backend's own choice, or one of Backend.devices(). precision: of matrix
    products and activations; masters and moments stay float32 (float64 under float64). 'tf32' is
    float32, but products may round their inputs to 10 bits, and is refused where none do. compile:
    None where it pays. deterministic: the same bits each time, refused where the device has no way.
    exact: the slower elementwise forms that are right to the last bits in float64; always on there.
    as_trained: a built model computes as a learner does, to the bit, though models that are not
    trained may have faster ways; the reference of preferences is built so.
    shard: how a learner's tensors are split over the processes, 'full' or 'optimizer', None for
    whole ones in each; reading a tensor of its state, and evaluating with it, is then what all
    processes do at once. shard_group: over so many neighbours, each such group holding all; None
    for one group.
    """

    device: str | None = None
    precision: str = "float32"
    compile: bool | None = None
    grad_checkpoint: bool = False
    deterministic: bool = False
    exact: bool = False
    as_trained: bool = False
    shard: str | None = None
    shard_group: int | None = None

    def __post_init__(self) -> None:
        if self.shard not in (None, *SHARDS):
            raise HermesError(f"shard is {self.shard!r}; it must be one of {', '.join(SHARDS)}")
        if self.shard_group is not None and self.shard is None:
            raise HermesError(f"shard_group is {self.shard_group}, but shard says nothing")
        if self.precision not in PRECISIONS:
            raise HermesError(
                f"precision is {self.precision!r}; it must be one of {', '.join(PRECISIONS)}"
            )


@dataclass(frozen=True)
class PreferencePairs:
    """What a batch of preference pairs carries besides its tokens.

    Row b of the first half of B is the chosen completion, row b of the second half the rejected one.
    reference (A, B): each row's summed log-probability of its targets under the reference model, in
    nats; zeros where the loss needs no reference. rule: the preference loss. Dropout is off in such
    a batch, as it is in the reference.
    """

    reference: NDArray[np.float64]
    rule: Preference


@dataclass(frozen=True)
class LossCounts:
    """Totals of an update over all ranks.

    terms: the number of losses that are averaged: targets, or pairs under a preference loss.
    targets: the targets that are not IGNORE, on both sides of a pair.
    """

    terms: int
    targets: int


@dataclass(frozen=True)
class Batch:
    """All micro-batches of one update, or one rank's share of them.

    tokens (A, B, T): input ids. targets (A, B, T): the id that follows each, or IGNORE where it
    takes no part in the loss. rows (A, B): each sample's index within the update over all ranks,
    which keys its dropout masks. segments (A, B, T): None, or the document of each token; attention
    and positions stay inside a document. pairs: None, or what a preference loss needs.
    global_counts: totals of the update over all ranks; None where this batch is all of it.
    """

    tokens: NDArray[np.int32]
    targets: NDArray[np.int32]
    rows: NDArray[np.uint32]
    segments: NDArray[np.int32] | None = None
    pairs: PreferencePairs | None = None
    global_counts: LossCounts | None = None

    @property
    def counts(self) -> LossCounts:
        """Totals of the whole update, over all ranks."""
        return self.global_counts or LossCounts(self.num_terms, self.num_targets)

    @property
    def num_targets(self) -> int:
        """Targets of this batch that are not IGNORE, on both sides of a pair."""
        return int((self.targets != IGNORE).sum())

    @property
    def num_terms(self) -> int:
        """Losses that this batch adds to the mean: targets, or pairs that have at least one."""
        if self.pairs is None:
            return self.num_targets
        has_target = (self.targets != IGNORE).any(axis=-1)  # (A, B)
        return int(has_target[:, : has_target.shape[1] // 2].sum())


@dataclass(frozen=True)
class StepReport:
    """What one update did; loss and norm are lazy, and reading one waits for the device.

    loss: nats per counted token (or the loss per pair), of the batch, before the update. grad_norm:
    global, before clipping. Where either is not finite the update was not applied.
    row_logprobs: of a batch of pairs, np.asarray gives each row's summed log-probability, (A, B).
    """

    step: int
    loss: SupportsFloat
    grad_norm: SupportsFloat
    row_logprobs: ArrayLike | None = None


@dataclass(frozen=True)
class TrainState:
    """Weights and AdamW's moments under the parameters' names, and the updates made so far."""

    params: Tensors
    exp_avg: Tensors
    exp_avg_sq: Tensors
    step: int


class Decoder(Protocol):
    """A KV cache over `batch_size` rows that advance together."""

    def advance(self, tokens: NDArray[np.integer]) -> NDArray[np.floating]:
        """Read (B, T) tokens after those already read; the last position's logits, (B, V).

        Prefill and single steps are the same call. Raises HermesError beyond the capacity.
        """
        ...


class Model(Protocol):
    """A built model: spec, weights, device. Logits are float32, or float64 under float64."""

    spec: ModelSpec

    def logits(
        self, tokens: NDArray[np.integer], segments: NDArray[np.integer] | None = None
    ) -> NDArray[np.floating]:
        """Scores of the next token at every position. (B, T) -> (B, T, V)."""
        ...

    def logprobs(
        self, tokens: NDArray[np.integer], targets: NDArray[np.integer]
    ) -> NDArray[np.floating]:
        """Log-probability of each target in nats, 0 where it is IGNORE. (B, T) -> (B, T)."""
        ...

    def row_logprobs(
        self, tokens: NDArray[np.integer], targets: NDArray[np.integer]
    ) -> NDArray[np.floating]:
        """Each row's summed log-probability of its targets, summed as training does. -> (B,).

        The rows are those of pairs, so B is even: the first half was preferred to the second.
        """
        ...

    def loss(self, batch: Batch) -> float:
        """The batch's loss over all micro-batches, without dropout."""
        ...

    def preferences(self, batch: Batch) -> tuple[float, NDArray[np.floating]]:
        """Of a batch of pairs: its loss, and from the same pass what row_logprobs gives. (A, B)"""
        ...

    def decoder(self, batch_size: int, capacity: int) -> Decoder:
        """A fresh cache for rows of at most `capacity` tokens."""
        ...

    def params(self) -> Tensors:
        """The weights, one tensor at a time, in master precision."""
        ...


class Learner(Model, Protocol):
    """A model with gradients and optimizer state.

    Where several processes train it, each is given its share of every batch: loss and gradients
    are the whole update's, in all of them the same.
    """

    def grads(self, batch: Batch) -> tuple[float, Tensors]:
        """Loss with dropout as of the next update, and the gradient of every trained tensor."""
        ...

    def step(self, batch: Batch, lr: float) -> StepReport:
        """One update from all micro-batches: gradients, clipping, AdamW."""
        ...

    def digests(self) -> Mapping[str, int]:
        """A number of the bits of each tensor and its moments, to compare processes with."""
        ...

    def state(self) -> TrainState:
        """All that a checkpoint needs to go on from here, on any backend."""
        ...


class Backend(Protocol):
    """One realisation of the specification."""

    name: str

    def versions(self) -> dict[str, str]:
        """Version by library, for records and certificates."""
        ...

    def devices(self) -> tuple[str, ...]:
        """The devices at hand, the preferred one first."""
        ...

    def join(self, rank_info: RankInfo, options: Options = ...) -> ProcessGroup:
        """Meet the other processes of the run. Raises Unsupported and PeerLost."""
        ...

    def build(
        self,
        spec: ModelSpec,
        params: Tensors,
        options: Options = ...,
        process_group: ProcessGroup = ...,
    ) -> Model:
        """A model for evaluation and decoding. Raises Unsupported, in one sentence.

        processes: over which options.shard splits it; whole in each where it says nothing.
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
        """A model for training, going on from `state`. Raises Unsupported, in one sentence."""
        ...


def list_backends() -> list[str]:
    """The names under which backends are registered, installed or not."""
    return sorted({point.name for point in entry_points(group="hermes.backends")})


def find_backend(name: str) -> Backend:
    """The backend of that name, its framework imported now. Raises MissingBackend."""
    points = {point.name: point for point in entry_points(group="hermes.backends")}
    if name not in points:
        raise MissingBackend(f"backend {name!r} is unknown; known are {', '.join(sorted(points))}")
    try:
        return cast(Backend, points[name].load())
    except ImportError as error:
        raise MissingBackend(
            f"backend {name!r} is not installed ({error}); pip install 'hermes-llm[{name}]'"
        ) from error


class LazyTensors(Mapping[str, Array]):
    """Tensors by name, each made by `make(name)` when asked for and not kept.

    No later update changes what was made, so that who saves it need not copy it again.
    """

    def __init__(self, names: Iterable[str], make: Callable[[str], Array]):
        self._names = dict.fromkeys(names)
        self._make = make

    def __getitem__(self, name: str) -> Array:
        if name not in self._names:
            raise KeyError(name)
        return self._make(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def check_tokens(spec: ModelSpec, tokens: NDArray[np.generic], length: int | None = None) -> None:
    """Refuse ids outside the vocabulary and rows longer than the model (gathers do not check).

    length: tokens of a row counting those read before, where that is more than tokens.shape[-1].
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
    """Refuse a batch that counts nothing, or pairs for another objective or rule than the run's."""
    if batch.counts.terms == 0:
        raise HermesError("a batch without a single counted target has no loss")
    if (batch.pairs is not None) != (recipe.objective == "preference"):
        found = "single sequences" if batch.pairs is None else "pairs"
        raise HermesError(f"the objective is {recipe.objective!r}, but the batch holds {found}")
    if batch.pairs is not None and batch.pairs.rule != recipe.preference:
        raise HermesError(f"the batch's rule is {batch.pairs.rule}, the run's {recipe.preference}")


def detect_default_backend() -> str | None:
    """What "auto" means here: mlx on Apple silicon, torch elsewhere, else the one installed.

    Nothing is imported to find out.
    """
    apple = sys.platform == "darwin" and platform.machine() == "arm64"
    order = ("mlx", "torch") if apple else ("torch", "mlx")
    return next((name for name in order if find_spec(name) is not None), None)


def choose_backend(name: str = "auto") -> Backend:
    """The backend of that name. Raises MissingBackend, with what to install."""
    if name != "auto":
        return find_backend(name)
    found = detect_default_backend()
    if found is None:
        raise MissingBackend(
            "no backend is installed; pip install 'hermes-llm[torch]' or 'hermes-llm[mlx]'"
        )
    return find_backend(found)

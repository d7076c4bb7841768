"""The interface between hermes and a backend; nothing else is shared.

A backend takes NumPy arrays, Python numbers and frozen dataclasses, and returns the same. Backends
are values, found through the entry-point group `hermes.backends` and passed as arguments: there is
no current backend, and one process may use two. How to write one: `specs/backend.md`.

Letters: A micro-batches of one step, B sequences, T positions, V vocabulary.
"""

import platform
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from importlib.metadata import entry_points
from importlib.util import find_spec
from typing import Protocol, cast

import numpy as np
from numpy.typing import NDArray

from hermes.arguments import SHORT_NAMES
from hermes.backend_options import PRECISIONS, SHARDS, DeviceInfo, Options
from hermes.batch import (
    IGNORE,
    Batch,
    LossCounts,
    PreferencePairs,
    check_batch,
    check_tokens,
)
from hermes.decoders import (
    PREFILL_CHUNK,
    Array,
    ChoosesAhead,
    ChoosesTokens,
    Decoder,
    DecodesInvariantRows,
    DecodesOnDevice,
    DecodesRows,
    KeepsRows,
    ReadsChunks,
    RowDecoder,
    Tensors,
    TokenChoice,
    WritesAhead,
)
from hermes.distributed.process_group import ProcessGroup, RankInfo
from hermes.errors import (
    MissingBackend,
    OutOfMemory,
    explain_exhaustion,
    is_out_of_memory,
    suggest_nearest,
)
from hermes.recipe import Recipe
from hermes.spec import ModelSpec
from hermes.stages import report_stage
from hermes.train_state import LazyTensors, LossScale, StepReport, TrainState

__all__ = [
    "IGNORE",
    "PRECISIONS",
    "PREFILL_CHUNK",
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
    "ReadsChunks",
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

DEVICES = ("cpu", "cuda", "gpu", "mps")  # which some call a backend


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
    """Load a backend by name and import its framework. Raises MissingBackend, OutOfMemory."""
    points = {point.name: point for point in entry_points(group="hermes.backends")}
    if name not in points:
        known = f"known are {', '.join(sorted(points))}"
        if name.partition(":")[0].lower() in DEVICES:
            hint = f", but a device: give it as --device; {known}"
        else:
            hint = suggest_nearest(name.lower(), points) or f"; {known}"
        raise MissingBackend(f"backend {name!r} is unknown{hint}")
    report_stage(f"loading {name}")
    try:
        found = cast(Backend, points[name].load())
    except (ImportError, MemoryError) as error:
        if exhausted := explain_exhaustion(error):
            kind = OutOfMemory if is_out_of_memory(error) else MissingBackend
            raise kind(f"backend {name!r} cannot be loaded: {exhausted}") from error
        raise MissingBackend(
            f"backend {name!r} is not installed ({error}); pip install 'hermes-llm[{name}]'"
        ) from error
    report_stage("")
    return found


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

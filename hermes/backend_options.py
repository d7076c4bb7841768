"""Where and how fast a model runs on a backend, and what a backend says of its devices."""

from dataclasses import dataclass

from hermes.arguments import SHORT_NAMES, convert_fields
from hermes.errors import HermesError

__all__ = ["PRECISIONS", "SHARDS", "DeviceInfo", "Options"]

PRECISIONS = ("float32", "tf32", "bfloat16", "float16", "float64")
SHARDS = ("full", "optimizer")


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

"""hermes.interface.Backend on MLX."""

import sys
from collections.abc import Callable
from importlib.metadata import version

import mlx.core as mx

from hermes.distributed.process_group import SINGLE_PROCESS, RankInfo
from hermes.distributed.process_group import ProcessGroup as AnyProcessGroup
from hermes.interface import DeviceInfo, Options, Tensors, TrainState
from hermes.numerics.frozen import FrozenWeights
from hermes.recipe import Recipe
from hermes.spec import ModelSpec
from hermes.work_counts import WorkCounts
from hermes_mlx import FAST_BLAS
from hermes_mlx.device_memory import count_free_memory
from hermes_mlx.inference import Model
from hermes_mlx.learner import Learner
from hermes_mlx.process_group import ProcessGroup, join
from hermes_mlx.runtime import Runtime, list_devices


class Backend:
    """hermes_mlx: Apple silicon, and MLX on CPUs."""

    name = "mlx"

    def versions(self) -> dict[str, str]:
        """Version by library."""
        return {"mlx": version("mlx")}

    def devices(self) -> tuple[str, ...]:
        """The devices of this machine, the preferred one first."""
        return list_devices()

    def describe_blas(self) -> str:
        """The library that multiplies matrices on the CPU; `hermes_mlx` says where it is from."""
        if sys.platform == "darwin":
            return "Accelerate"
        return "torch's" if FAST_BLAS else "reference"

    def describe_device(self, device: str) -> DeviceInfo:
        """What a device of this machine is; MLX's GPU is Metal's, or CUDA's on Linux."""
        if device != "gpu":
            return DeviceInfo("cpu")
        told = mx.device_info(mx.Device(mx.gpu))
        if mx.metal.is_available():
            return DeviceInfo("metal", str(told.get("device_name", "")))
        capability = [int(told.get(f"compute_capability_{part}", 0)) for part in ("major", "minor")]
        return DeviceInfo("cuda", str(told.get("device_name", "")), (capability[0], capability[1]))

    def count_free_memory(self, device: str) -> int | None:
        """Bytes that are free on a device; None where it computes in main memory."""
        return count_free_memory(device)

    def read_peak_memory(self, device: str) -> int | None:
        """The most bytes of arrays so far on the GPU; None on the CPU."""
        return mx.get_peak_memory() if device == "gpu" else None

    def count_work(self, run: Callable[[], object]) -> WorkCounts:
        """Call run() and count its operations, graphs and waits, from MLX's graphs."""
        from hermes_mlx.work_counts import count_work  # needs unittest.mock, and that asyncio

        return count_work(run)

    def build(
        self,
        spec: ModelSpec,
        params: Tensors,
        options: Options = Options(),
        process_group: AnyProcessGroup = SINGLE_PROCESS,
    ) -> Model:
        """Build a model for evaluation and decoding."""
        return Model(Runtime(spec, params, options, training=False))

    def join(self, rank_info: RankInfo, options: Options = Options()) -> ProcessGroup:
        """Join the other processes of the run."""
        return join(rank_info)

    def learner(
        self,
        spec: ModelSpec,
        state: TrainState,
        recipe: Recipe,
        options: Options = Options(),
        process_group: AnyProcessGroup = SINGLE_PROCESS,
    ) -> Learner:
        """Build a model for training that continues from `state`."""
        frozen = FrozenWeights(spec, state, recipe, options.precision)
        runtime = Runtime(
            spec, state.params, options, training=True, lora=recipe.lora, frozen=frozen
        )
        return Learner(runtime, state, recipe, process_group)


BACKEND = Backend()

"""hermes.interface.Backend on PyTorch."""

from typing import TYPE_CHECKING

import torch

from hermes.distributed.process_group import SINGLE_PROCESS, RankInfo
from hermes.distributed.process_group import ProcessGroup as AnyProcessGroup
from hermes.interface import DeviceInfo, Options, Tensors, TrainState
from hermes.numerics.frozen import FrozenWeights
from hermes.recipe import Recipe
from hermes.spec import ModelSpec
from hermes_torch.fused_attention import describe_slow_layers, find_kernels
from hermes_torch.inference import Model
from hermes_torch.learner import Learner
from hermes_torch.process_group import ProcessGroup, join
from hermes_torch.runtime import DTYPES, Runtime, list_devices

if TYPE_CHECKING:
    from hermes_torch.sharding import Shards


class Backend:
    """hermes_torch: CPU and CUDA."""

    name = "torch"

    def versions(self) -> dict[str, str]:
        """Version by library."""
        cuda = {"cuda": torch.version.cuda} if torch.version.cuda else {}
        return {"torch": torch.__version__, **cuda}

    def devices(self) -> tuple[str, ...]:
        """The devices of this machine, the preferred one first."""
        return list_devices()

    def describe_device(self, device: str) -> DeviceInfo:
        """What a device of this machine is."""
        if not device.startswith("cuda"):
            return DeviceInfo("cpu")
        capability = torch.cuda.get_device_capability(device)
        return DeviceInfo("cuda", torch.cuda.get_device_name(device), capability)

    def count_free_memory(self, device: str) -> int | None:
        """Bytes that are free on a device; None where it computes in main memory."""
        if not device.startswith("cuda"):
            return None
        free: int = torch.cuda.mem_get_info(device)[0]
        return free

    def describe_attention(
        self, spec: ModelSpec, options: Options, *, has_segments: bool, has_dropout: bool
    ) -> str | None:
        """What training costs where no kernel of attention has what a layer asks for, else None.

        has_segments: whether rows hold several documents.
        """
        name = options.device or list_devices()[0]
        if not name.startswith("cuda") or options.exact or options.precision == "float64":
            return None
        kernels = find_kernels(torch.device(name), DTYPES[options.precision], options)
        return describe_slow_layers(
            kernels, spec, has_segments=has_segments, has_dropout=has_dropout
        )

    def read_peak_memory(self, device: str) -> int | None:
        """The most bytes of tensors so far on a device; None where it computes in main memory."""
        if not device.startswith("cuda"):
            return None
        peak: int = torch.cuda.max_memory_allocated(device)
        return peak

    def build(
        self,
        spec: ModelSpec,
        params: Tensors,
        options: Options = Options(),
        process_group: AnyProcessGroup = SINGLE_PROCESS,
    ) -> Model:
        """Build a model for evaluation and decoding."""
        shards = make_shards(options, process_group)
        return Model(Runtime(spec, params, options, training=bool(shards), shards=shards))

    def join(self, rank_info: RankInfo, options: Options = Options()) -> ProcessGroup:
        """Join the other processes of the run."""
        return join(rank_info, options.device or self.devices()[0])

    def learner(
        self,
        spec: ModelSpec,
        state: TrainState,
        recipe: Recipe,
        options: Options = Options(),
        process_group: AnyProcessGroup = SINGLE_PROCESS,
    ) -> Learner:
        """Build a model for training that continues from `state`."""
        shards = make_shards(options, process_group)
        frozen = FrozenWeights(spec, state, recipe, options.precision)
        runtime = Runtime(
            spec,
            state.params,
            options,
            training=True,
            lora=recipe.lora,
            shards=shards,
            frozen=frozen,
        )
        return Learner(runtime, state, recipe, process_group)


def make_shards(options: Options, process_group: AnyProcessGroup) -> "Shards | None":
    """How the options split a module over the processes; None for whole in each."""
    if not options.shard:
        return None
    from hermes_torch.sharding import Shards  # FSDP takes a second to import

    return Shards(process_group, options)


BACKEND = Backend()

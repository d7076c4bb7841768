"""hermes.interface.Backend on NumPy: forward, loss and decoding. The oracle has no derivatives."""

from typing import NoReturn

import numpy as np

from hermes.distributed.process_group import SINGLE_PROCESS, ProcessGroup, RankInfo
from hermes.errors import Unsupported
from hermes.interface import DeviceInfo, Options, Tensors, TrainState
from hermes.recipe import Recipe
from hermes.spec import ModelSpec
from hermes_numpy.inference import Model


class Backend:
    """hermes_numpy."""

    name = "numpy"

    def versions(self) -> dict[str, str]:
        """Version by library."""
        return {"numpy": np.__version__}

    def devices(self) -> tuple[str, ...]:
        """The CPU alone."""
        return ("cpu",)

    def describe_device(self, device: str) -> DeviceInfo:
        """The CPU, in float64 alone."""
        return DeviceInfo("cpu", precision="float64")

    def build(
        self,
        spec: ModelSpec,
        params: Tensors,
        options: Options = Options(precision="float64"),
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> Model:
        """Build a model in float64; raises Unsupported for any other precision or device."""
        if options.device not in (None, "cpu"):
            raise Unsupported(f"the oracle runs on 'cpu', not on {options.device!r}")
        if options.precision != "float64":
            raise Unsupported(
                f"the oracle computes in float64, not in {options.precision}; "
                "ask for precision float64"
            )
        return Model(spec, params)

    def join(
        self, rank_info: RankInfo, options: Options = Options(precision="float64")
    ) -> NoReturn:
        """Decline: the oracle trains nothing."""
        raise Unsupported("the oracle works in one process")

    def learner(
        self,
        spec: ModelSpec,
        state: TrainState,
        recipe: Recipe,
        options: Options = Options(precision="float64"),
        process_group: ProcessGroup = SINGLE_PROCESS,
    ) -> NoReturn:
        """Decline: derivatives of the oracle are complex steps of its loss."""
        raise Unsupported("the oracle has no derivatives, so it trains nothing")


BACKEND = Backend()

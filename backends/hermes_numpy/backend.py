"""The oracle behind the seam: forward, loss and decoding. It has no derivatives."""

import numpy as np

from hermes.distributed.process_group import SINGLE_PROCESS
from hermes.errors import Unsupported
from hermes.interface import Options
from hermes_numpy.inference import Model


class Backend:
    """hermes_numpy."""

    name = "numpy"

    def versions(self):
        """Version by library."""
        return {"numpy": np.__version__}

    def devices(self):
        """The one there is."""
        return ("cpu",)

    def build(
        self, spec, params, options=Options(precision="float64"), process_group=SINGLE_PROCESS
    ):
        """A model in float64, whatever the options ask for."""
        if options.device not in (None, "cpu"):
            raise Unsupported(f"the oracle runs on 'cpu', not on {options.device!r}")
        if options.precision != "float64":
            raise Unsupported(
                f"the oracle computes in float64, not in {options.precision}; "
                "ask for precision float64"
            )
        return Model(spec, params)

    def join(self, rank_info, options=Options(precision="float64")):
        """Declined: the oracle trains nothing."""
        raise Unsupported("the oracle works in one process")

    def learner(
        self,
        spec,
        state,
        recipe,
        options=Options(precision="float64"),
        process_group=SINGLE_PROCESS,
    ):
        """Declined: derivatives of the oracle are taken by differences of its loss."""
        raise Unsupported("the oracle has no derivatives, so it trains nothing")


BACKEND = Backend()

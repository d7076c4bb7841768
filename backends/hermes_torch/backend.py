"""hermes_torch behind the seam."""

import torch

from hermes.distributed.process_group import SINGLE_PROCESS
from hermes.interface import Options
from hermes_torch.inference import Model
from hermes_torch.learner import Learner
from hermes_torch.process_group import join
from hermes_torch.runtime import Engine, devices


class Backend:
    """hermes_torch: CPU and CUDA."""

    name = "torch"

    def versions(self):
        """Version by library."""
        cuda = {"cuda": torch.version.cuda} if torch.version.cuda else {}
        return {"torch": torch.__version__, **cuda}

    def devices(self):
        """The devices at hand, the preferred one first."""
        return devices()

    def build(self, spec, params, options=Options(), process_group=SINGLE_PROCESS):
        """A model for evaluation and decoding."""
        shards = _shards(options, process_group)
        return Model(Engine(spec, params, options, training=bool(shards), shards=shards))

    def join(self, rank_info, options=Options()):
        """Meet the other processes of the run."""
        return join(rank_info, options.device or self.devices()[0])

    def learner(self, spec, state, recipe, options=Options(), process_group=SINGLE_PROCESS):
        """A model for training, going on from `state`."""
        shards = _shards(options, process_group)
        engine = Engine(spec, state.params, options, training=True, lora=recipe.lora, shards=shards)
        return Learner(engine, state, recipe, process_group)


def _shards(options, process_group):
    """How options.shard splits a module; None where it says nothing."""
    if not options.shard:
        return None
    from hermes_torch.sharding import Shards  # its library takes a second to import

    return Shards(process_group, options)


BACKEND = Backend()

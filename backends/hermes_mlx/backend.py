"""hermes_mlx behind the seam."""

from importlib.metadata import version

from hermes.distributed.process_group import SINGLE_PROCESS
from hermes.interface import Options
from hermes_mlx.inference import Model
from hermes_mlx.learner import Learner
from hermes_mlx.process_group import join
from hermes_mlx.runtime import Engine, devices


class Backend:
    """hermes_mlx: Apple Silicon, and MLX on CPUs."""

    name = "mlx"

    def versions(self):
        """Version by library."""
        return {"mlx": version("mlx")}

    def devices(self):
        """The devices at hand, the preferred one first."""
        return devices()

    def build(self, spec, params, options=Options(), process_group=SINGLE_PROCESS):
        """A model for evaluation and decoding."""
        return Model(Engine(spec, params, options, training=False))

    def join(self, rank_info, options=Options()):
        """Meet the other processes of the run."""
        return join(rank_info)

    def learner(self, spec, state, recipe, options=Options(), process_group=SINGLE_PROCESS):
        """A model for training, going on from `state`."""
        engine = Engine(spec, state.params, options, training=True, lora=recipe.lora)
        return Learner(engine, state, recipe, process_group)


BACKEND = Backend()

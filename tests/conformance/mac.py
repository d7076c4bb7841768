"""A backend on Linux that plays the Mac: its GPU has no float64 and is not deterministic.

What it computes is torch's, on the CPU.
"""

from dataclasses import replace

from hermes.errors import Unsupported
from hermes.interface import find_backend


class PlaysMac:
    """Says that it has a GPU, and refuses there what hermes_mlx refuses on Apple's."""

    name = "mac"

    def __init__(self):
        self._torch = find_backend("torch")
        self.asked = []

    def versions(self):
        return self._torch.versions()

    def devices(self):
        return "gpu", "cpu"

    def build(self, spec, params, options):
        return self._torch.build(spec, params, self._move(options))

    def learner(self, spec, state, recipe, options):
        return self._torch.learner(spec, state, recipe, self._move(options))

    def _move(self, options):
        on_gpu = options.device in (None, "gpu")
        self.asked.append((options.device or "gpu", options.precision, options.deterministic))
        if on_gpu and options.precision == "float64":
            raise Unsupported("float64 is computed on 'cpu' only")
        if on_gpu and options.deterministic:
            raise Unsupported("deterministic on 'cpu' only")
        return replace(options, device="cpu")

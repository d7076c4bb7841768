"""What device.py measures: backend, device, shapes, and until when."""

import math
import platform
import time
from dataclasses import dataclass, replace

from hermes import load_spec
from hermes.interface import choose_backend, find_backend
from hermes.model_info.devices import choose_device, choose_precision


@dataclass(frozen=True)
class Setting:
    """What is measured: backend, device, and small shapes or whole ones.

    ends: when this part is ended, by the clock of time.monotonic, which processes share.
    """

    backend: str
    device: str
    small: bool
    ends: float = math.inf

    @classmethod
    def choose(cls, backend, device, *, small):
        """The backend and device asked for, or those of this machine. Raises HermesError."""
        found = choose_backend(backend or "auto")
        device = choose_device(found, device)
        return cls(found.name, device, small or device == "cpu")

    def count_seconds_left(self):
        """Seconds until this part is ended."""
        return self.ends - time.monotonic()

    @property
    def is_metal(self):
        """Whether the device is a Mac's GPU."""
        return self.backend == "mlx" and self.device == "gpu" and platform.system() == "Darwin"

    def is_compiled(self, peer):
        """Whether a peer is compiled: where its own documentation says so."""
        compiled = {"nanoGPT-like": "cuda", "litgpt": "cuda", "mlx-lm": "gpu"}
        return self.device.split(":")[0] == compiled.get(peer)

    @property
    def precision(self):
        """What a run would choose here."""
        return choose_precision("auto", find_backend(self.backend), self.device)

    def make_spec(self):
        """smol-llama; a small model of its proportions for small shapes."""
        spec = load_spec("smol-llama")
        if not self.small:
            return spec
        return replace(spec, hidden_size=120, num_layers=2, vocab_size=1024, max_seq_len=512)

    @property
    def rows(self):
        """Rows of a batch that is trained on, the first for ratios too."""
        return (2,) if self.small else (4,) if self.is_metal else (16, 64)

    @property
    def length(self):
        """Tokens of a row."""
        return 128 if self.small else 1024 if self.is_metal else 2048

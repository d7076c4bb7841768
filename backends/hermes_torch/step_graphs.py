"""Steps of decoding, captured once and replayed: small kernels cost less to run than to launch.

What torch asks of a capture: shapes and addresses that stay, nothing that the host reads or
allocates by itself, a run of the same on the stream of the capture before it. Source: torch 2.13,
torch/cuda/graphs.py and the notes on CUDA semantics.
"""

import warnings
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

import torch

from hermes.errors import is_out_of_memory

__all__ = ["StepGraphs"]

# Steps of a kind that are run before one is captured: a short text does not pay for a capture.
EAGER_STEPS = 4


class StepGraphs:
    """Runs steps that are functions of tensors alone, whose memory stays.

    A step may be run twice with the same result. What it returns is good until the next one runs.
    """

    def __init__(self, device: torch.device, *, captures: bool):
        self._device = device
        self._captures = captures and device.type == "cuda"
        self._runs: Counter[Hashable] = Counter()
        self._graphs: dict[Hashable, tuple[torch.cuda.CUDAGraph, Any]] = {}
        self._stream: torch.cuda.Stream | None = None

    def run(self, kind: Hashable, step: Callable[[], Any]) -> Any:
        """Run a step. kind: all that its shapes and its Python depend on."""
        if not self._captures:
            return step()
        if kind not in self._graphs:
            self._runs[kind] += 1
            if self._runs[kind] <= EAGER_STEPS:
                return step()
            try:
                self._graphs[kind] = self._make_graph(step)
            except Exception as error:
                if is_out_of_memory(error):
                    raise
                self._captures = False
                reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
                warnings.warn(
                    "a decoding step could not be captured as a CUDA graph, so its kernels are "
                    f"launched one by one, which is slower: {reason}",
                    stacklevel=2,
                )
                return step()
        graph, found = self._graphs[kind]
        graph.replay()
        return found

    def _make_graph(self, step: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
        if self._stream is None:
            self._stream = torch.cuda.Stream(self._device)
        stream, current = self._stream, torch.cuda.current_stream(self._device)
        stream.wait_stream(current)
        with torch.cuda.stream(stream):
            step()  # libraries make their handles and workspaces on the stream of the capture
        current.wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        pool = next((other.pool() for other, _ in self._graphs.values()), None)
        # Other threads may use CUDA meanwhile: a server answers while its engine captures.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            found = step()
        return graph, found

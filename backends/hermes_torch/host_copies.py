"""Copies from a device to the host that the device makes when it gets there, while both go on.

On CUDA: into pinned memory, with an event behind each copy. Whoever reads one waits for that event,
and so for nothing that was queued since. Elsewhere a copy is made at once.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor as Array

__all__ = ["CudaLane", "HostCopies", "LateNumber", "LateNumbers", "Wait"]

Wait = Callable[[], Array]


class CudaLane:
    """Copies from a CUDA device. beside: on a stream of its own, while the device computes on."""

    def __init__(self, device: torch.device, *, beside: bool):
        self._device = device
        self._stream = torch.cuda.Stream(device) if beside else None

    def copy(self, tensor: Array) -> tuple[Array, Any]:
        """Queue a copy behind what is queued by now. -> host tensor, event behind the copy."""
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        computing = torch.cuda.current_stream(self._device)
        stream = self._stream or computing
        if self._stream:
            self._stream.wait_stream(computing)
            # Or the allocator would give the memory of a temporary to the next tensor at once.
            tensor.record_stream(self._stream)
        with torch.cuda.stream(stream):
            host.copy_(tensor, non_blocking=True)
        return host, stream.record_event()

    def hold_back(self, event: Any) -> None:
        """Let the device do nothing that is queued from now on before the event; no host waits."""
        torch.cuda.current_stream(self._device).wait_event(event)


class HostCopies:
    """Copies tensors of a device to the host; see CudaLane for `beside`."""

    def __init__(self, device: torch.device, *, beside: bool = False):
        self._lane: CudaLane | None = None
        if device.type == "cuda":
            self._lane = CudaLane(device, beside=beside)
        self._last: Any = None

    @property
    def runs_ahead(self) -> bool:
        """Whether the device may still compute what the host has queued."""
        return self._lane is not None

    def begin(self, tensor: Array) -> Wait:
        """Begin to copy a tensor; what is returned waits for the copy, from any thread.

        Before the tensor is changed, `hold_back` is to be called.
        """
        tensor = tensor.detach()
        if self._lane is None:
            host = tensor.to("cpu", copy=True)
            return lambda: host
        late, event = self._lane.copy(tensor)
        self._last = event

        def wait() -> Array:
            event.synchronize()
            return late

        return wait

    def hold_back(self) -> None:
        """Let tensors be changed: the device does so once all copies of them are made."""
        if self._lane is not None and self._last is not None:
            self._lane.hold_back(self._last)
        self._last = None


class LateNumbers:
    """Numbers of a step, by name, in one copy; reading the first of them waits for it."""

    def __init__(self, copies: HostCopies, numbers: Mapping[str, Array]):
        self._numbers: Mapping[str, Array] | None = None
        if copies.runs_ahead:
            flat = [x.detach().reshape(-1) for x in numbers.values()]
            wide = torch.float64 if any(x.dtype == torch.float64 for x in flat) else torch.float32
            self._wait = copies.begin(torch.cat([x.to(wide) for x in flat]))
            self._sizes = {name: x.shape for name, x in numbers.items()}
        else:
            self._numbers = {name: x.detach() for name, x in numbers.items()}

    def read(self, name: str) -> Array:
        """A number, or an array of them, on the host."""
        if self._numbers is None:
            flat = self._wait().split([shape.numel() for shape in self._sizes.values()])
            parts = zip(self._sizes.items(), flat, strict=True)
            self._numbers = {key: part.reshape(shape) for (key, shape), part in parts}
        return self._numbers[name]


class LateNumber:
    """One of them; float() and np.asarray() wait for it. dtype: of the array by default."""

    def __init__(self, numbers: LateNumbers, name: str):
        self._numbers, self._name = numbers, name

    def __float__(self) -> float:
        return float(self._numbers.read(self._name))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """The numbers, float64 unless asked for otherwise."""
        return self._numbers.read(self._name).cpu().numpy().astype(dtype or "float64")

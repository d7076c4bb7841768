"""Play a device that computes behind its host: torch on a CPU, whose copies to the host are late.

Nothing is copied until somebody waits for it, or until the device is told to hold back what would
change the tensor: what forgot either has other numbers.
"""

import threading
from typing import Any

from hermes_conformance.faults.patcher import Patcher

__all__ = ["NOT_YET", "PlayedEvent", "PlayedLane", "play_late_copies"]

NOT_YET = 77  # what a copy holds before it is made


class PlayedEvent:
    """What is behind a copy; the copies before it are made when it is waited for."""

    def __init__(self, lane: "PlayedLane", number: int):
        self.lane, self.number = lane, number

    def synchronize(self) -> None:
        """Wait for it."""
        self.lane.waits.append(self.number)
        self.lane.make_until(self.number)


class PlayedLane:
    """A lane of copies, as hermes_torch.host_copies has it, that are made as late as they may be.

    queued: tensor and copy of each, None once it is made. waits: the numbers of those waited for.
    """

    def __init__(self) -> None:
        self.queued: list[Any] = []
        self.waits: list[int] = []
        self.held_back = 0
        self._lock = threading.Lock()

    def copy(self, tensor: Any) -> tuple[Any, PlayedEvent]:
        """Queue a copy. -> host tensor, event behind the copy."""
        host = tensor.new_full(tensor.shape, NOT_YET)
        self.queued.append((host, tensor))
        return host, PlayedEvent(self, len(self.queued))

    def make_until(self, number: int) -> None:
        """Make the first copies, up to this number."""
        import torch

        with self._lock, torch.inference_mode():  # in which some of the tensors were made
            for at, pair in enumerate(self.queued[:number]):
                if pair is not None:
                    pair[0].copy_(pair[1])
                    self.queued[at] = None

    def hold_back(self, event: PlayedEvent) -> None:
        """Change nothing before the event."""
        self.held_back += 1
        self.make_until(event.number)


def play_late_copies(patcher: Patcher) -> None:
    """Copies of hermes_torch are of a played device, on any device."""

    def wrap(original):
        def init(self, device, *, beside=False):
            original(self, device, beside=beside)
            self._lane = PlayedLane()

        return init

    patcher.wrap_method("host_copies", "HostCopies", "__init__", wrap)

"""CUDA's streams, events and pinned memory, played on a CPU: each call is told in a list.

What it tells is the order in which a device would be asked, with the stream that was current. A
copy is made at once, so numbers are right whatever the order: the list is what is to be judged.
"""

from contextlib import contextmanager
from types import SimpleNamespace

import torch

DEVICE = torch.device("cuda")
COMPUTING = "computing"


class PlayedCuda:
    """The calls of a block in `told`; its streams are named by when they were made."""

    def __init__(self, monkeypatch):
        self.told, self._current, self._streams, self._graphs = [], None, 0, 0
        self._computing = self._make_stream(COMPUTING)
        cuda = torch.cuda
        monkeypatch.setattr(cuda, "Stream", lambda device=None: self._make_stream())
        monkeypatch.setattr(cuda, "Event", lambda **options: self._make_event())
        monkeypatch.setattr(cuda, "current_stream", lambda device=None: self.current)
        monkeypatch.setattr(cuda, "stream", self._use)
        monkeypatch.setattr(cuda, "CUDAGraph", self._make_graph)
        monkeypatch.setattr(cuda, "graph", self._capture)
        monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, by: self._note_use(by))
        monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: self._pin(tensor))
        empty, copy = torch.empty, torch.Tensor.copy_

        def make_empty(*shape, pin_memory=False, **options):
            if pin_memory:
                self.told.append("pin")
            return empty(*shape, **options)

        def copy_into(target, source, non_blocking=False):
            how = "queued" if non_blocking else "waited for"
            self.told.append(f"copy on {self.current.name}, {how}")
            return copy(target, source)

        monkeypatch.setattr(torch, "empty", make_empty)
        monkeypatch.setattr(torch.Tensor, "copy_", copy_into)

    @property
    def current(self):
        """The stream on which work is queued."""
        return self._current or self._computing

    def _make_stream(self, name=None):
        self._streams += name is None
        name = name or f"stream {self._streams}"
        return SimpleNamespace(
            name=name,
            wait_stream=lambda other: self.told.append(f"{name} waits for {other.name}"),
            wait_event=lambda event: self.told.append(f"{name} waits for the event"),
            record_event=lambda: self._make_event().record(SimpleNamespace(name=name)),
        )

    def _make_event(self):
        event = SimpleNamespace()

        def record(stream):
            self.told.append(f"event on {stream.name}")
            return event

        event.record = record
        event.synchronize = lambda: self.told.append("wait for the event")
        return event

    @contextmanager
    def _use(self, stream):
        before, self._current = self._current, stream
        yield
        self._current = before

    def _note_use(self, stream):
        self.told.append(f"memory is of {stream.name}")

    def _pin(self, tensor):
        self.told.append("pin")
        return tensor

    def _make_graph(self):
        self._graphs += 1
        name = f"graph {self._graphs}"
        return SimpleNamespace(
            name=name,
            pool=lambda: f"pool of {name}",
            replay=lambda: self.told.append(f"replay {name}"),
        )

    @contextmanager
    def _capture(self, graph, *, pool, stream, capture_error_mode):
        told = f"capture {graph.name} on {stream.name}, {pool}, {capture_error_mode}"
        self.told.append(told)
        with self._use(stream):
            yield

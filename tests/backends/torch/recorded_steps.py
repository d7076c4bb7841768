"""Steps of decoding that are recorded on a CPU where CUDA would capture them.

A captured step is the operations of one run, with their addresses and the numbers of its Python,
run again. `Recording` is that on a CPU.
"""

from contextlib import contextmanager
from unittest import mock

from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from hermes_torch import static_rows, step_graphs


class Recording(TorchDispatchMode):
    """The operations of a step and what they were given, to be run again as a CUDA graph is."""

    def __init__(self, step):
        super().__init__()
        self.steps = []
        with self:
            self.found = step()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **(kwargs or {}))
        self.steps.append((function, args, kwargs or {}, found))
        return found

    def replay(self):
        """Run them on the memory that they had; what was made between them is made anew."""
        made = {}

        def take(x):
            return made.get(id(x), x)

        for function, args, kwargs, found in self.steps:
            again = function(*tree_map(take, args), **tree_map(take, kwargs))
            made |= {id(a): b for a, b in zip(tree_leaves(found), tree_leaves(again), strict=True)}
        self.now = made[id(self.found)]


class RecordedSteps(step_graphs.StepGraphs):
    """Steps that are recorded where CUDA would capture them."""

    def __init__(self, device, *, captures):
        super().__init__(device, captures=False)
        self._captures, self.captured = True, []

    def _make_graph(self, step):
        step()
        recording = Recording(step)
        self.captured.append(recording)
        return recording, recording.found

    def run(self, kind, step):
        found = super().run(kind, step)
        recording = self._graphs.get(kind)
        return recording[0].now if recording else found


@contextmanager
def record_steps():
    """A block whose list gets the RecordedSteps of every decoder that is made in it."""
    made = []

    def make(device, *, captures):
        made.append(RecordedSteps(device, captures=captures))
        return made[-1]

    with mock.patch.object(static_rows, "StepGraphs", make):
        yield made

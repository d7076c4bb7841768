"""What CUDA is asked for, in which order: nothing that is left out shows in numbers on a CPU.

Without a wait of one stream for another a copy is of memory that is still being computed, and
without pinned memory it is one that the host waits for.
"""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from hermes_torch.host_copies import HostCopies
from hermes_torch.static_decoder import read_later
from hermes_torch.static_rows import StepInputs
from hermes_torch.step_graphs import EAGER_STEPS, StepGraphs
from tests.backends.torch.played_cuda import COMPUTING, DEVICE, PlayedCuda


@pytest.fixture
def cuda(monkeypatch):
    return PlayedCuda(monkeypatch)


def test_a_copy_beside_training_is_behind_what_computes_the_tensor_and_holds_its_memory(cuda):
    copies = HostCopies(DEVICE, beside=True)
    assert copies.runs_ahead
    wait = copies.begin(torch.arange(3.0))
    assert cuda.told == [
        "pin",
        f"stream 1 waits for {COMPUTING}",
        "memory is of stream 1",
        "copy on stream 1, queued",
        "event on stream 1",
    ]
    cuda.told.clear()
    assert wait().tolist() == [0, 1, 2]
    assert cuda.told == ["wait for the event"]
    cuda.told.clear()
    for _ in range(2):
        copies.hold_back()
    assert cuda.told == [f"{COMPUTING} waits for the event"]  # once, and no host


def test_numbers_of_a_step_are_copied_in_its_own_stream(cuda):
    copies = HostCopies(DEVICE)
    copies.begin(torch.ones(1))
    assert cuda.told == ["pin", f"copy on {COMPUTING}, queued", f"event on {COMPUTING}"]


def test_a_token_is_read_from_pinned_memory_behind_its_step(cuda):
    chosen = torch.tensor([7, 8])

    class OnDevice:
        device, dtype = DEVICE, chosen.dtype

        def __getitem__(self, at):
            return chosen[at]

    read = read_later(OnDevice())
    assert cuda.told == ["pin", f"copy on {COMPUTING}, queued", f"event on {COMPUTING}"]
    assert read() == 7
    assert cuda.told[3:] == ["wait for the event"]


def test_the_numbers_of_a_decoding_step_come_from_pinned_memory(cuda):
    layout = SimpleNamespace(rows=2, windows=(None,), get_size=lambda window: 8)
    inputs = StepInputs(layout, torch.device("cpu"))
    inputs._device = DEVICE
    current = SimpleNamespace(
        rows=[0, 1],
        positions=np.array([[3], [4]]),
        after=np.array([4, 5]),
        places={None: np.array([3, 4])},
        firsts={None: np.array([0, 0])},
    )
    inputs.load(current, np.array([5, 6]))
    assert cuda.told == ["pin", f"copy on {COMPUTING}, queued"]  # one copy, whatever is in it
    assert inputs.tokens[:, 0].tolist() == [5, 6]
    assert inputs.positions[:, 0].tolist() == [3, 4]


def test_a_step_runs_on_the_stream_of_its_capture_before_it_is_captured_and_then_is_replayed(cuda):
    """All graphs have one pool: of a decoder one runs at a time."""
    graphs, ran = StepGraphs(DEVICE, captures=True), []

    def step():
        ran.append(cuda.current.name)
        return len(ran)

    for _ in range(EAGER_STEPS):
        graphs.run("short", step)
    assert (ran, cuda.told) == ([COMPUTING] * EAGER_STEPS, [])
    ran.clear()
    found = graphs.run("short", step)
    assert ran == ["stream 1"] * 2  # once as it is, once captured
    assert found == 2
    assert cuda.told == [
        f"stream 1 waits for {COMPUTING}",
        f"{COMPUTING} waits for stream 1",
        "capture graph 1 on stream 1, None, thread_local",
        "replay graph 1",
    ]
    cuda.told.clear()
    assert graphs.run("short", step) == found
    assert (len(ran), cuda.told) == (2, ["replay graph 1"])
    for _ in range(EAGER_STEPS + 1):
        graphs.run("long", step)
    assert cuda.told[-2:] == [
        "capture graph 2 on stream 1, pool of graph 1, thread_local",
        "replay graph 2",
    ]


def test_nothing_is_captured_where_that_is_not_wanted(cuda):
    graphs = StepGraphs(DEVICE, captures=False)
    assert [graphs.run("short", lambda: 1) for _ in range(EAGER_STEPS + 2)] == [1] * 6
    assert cuda.told == []

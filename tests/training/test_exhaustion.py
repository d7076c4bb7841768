"""Memory that runs out, of a device or of the machine, is one sentence with what to choose."""

import re

import pytest
import torch

from hermes.errors import OutOfMemory
from hermes.interface import find_backend

CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 15.77 GiB"
BUFFER = (
    "[metal::malloc] Attempting to allocate 96905199616 bytes which is greater than the maximum "
    "allowed buffer size of 17179869184 bytes."
)
COMMAND = (
    "[METAL] Command buffer execution failed: Insufficient Memory "
    "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
)
ERRORS = [
    ("torch", torch.OutOfMemoryError(CUDA), CUDA),
    ("torch", MemoryError(), None),
    ("mlx", RuntimeError(BUFFER), BUFFER),
    ("mlx", RuntimeError(COMMAND), COMMAND),
    ("mlx", RuntimeError("[malloc] Unable to allocate 8589934592 bytes."), "[malloc] Unable"),
]


@pytest.fixture
def fail(monkeypatch):
    """Lets a method of a backend's learner fail with an error, from its call number `at` on."""

    def plant(backend, method, error, at=1):
        kind = __import__(f"hermes_{backend}.learner", fromlist=["Learner"]).Learner
        plain, calls = getattr(kind, method), []

        def failing(self, *arguments):
            calls.append(None)
            if len(calls) >= at:
                raise error
            return plain(self, *arguments)

        monkeypatch.setattr(kind, method, failing)

    return plant


@pytest.mark.parametrize(("backend", "error", "asked"), ERRORS)
def test_a_step_without_memory_is_one_sentence(go, fail, backend, error, asked):
    fail(backend, "step", error, at=2)
    with pytest.raises(OutOfMemory) as refused:
        go(backend=backend, device="cpu", max_steps=3)
    told = f" ({asked}" if asked else ";"
    said = str(refused.value)
    assert said.startswith(
        f"out of memory while training little on cpu with 4 x 16 tokens at a time{told}"
    )
    assert re.search(r"; its peak was \d\S* [MG]B; choose batch_size", said)
    sharded = " or shard full over several devices" if backend == "torch" else ""
    assert said.endswith(
        f"choose batch_size 2 with grad_accum 2 (the same steps) or grad_checkpoint=True{sharded}"
    )
    assert refused.value.exit_code == 71


def test_so_is_a_model_that_does_not_fit_and_an_evaluation(go, fail, monkeypatch):
    fail("torch", "loss", torch.OutOfMemoryError(CUDA))
    with pytest.raises(OutOfMemory, match=r"choose batch_size 3 with grad_accum 3 \(the same"):
        go("one", batch_size=9, max_steps=1, eval_every=1)
    fail("torch", "__init__", torch.OutOfMemoryError(CUDA))
    with pytest.raises(OutOfMemory, match=r"choose shard full over several devices$"):
        go("two", batch_size=1, grad_checkpoint=True)


def test_another_error_stays_what_it_is(go, fail):
    fail("torch", "step", RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match=r"^shapes do not match$"):
        go()


@pytest.mark.parametrize("name", ["torch", "mlx"])
def test_the_peak_of_a_cpu_is_the_processes(name):
    from hermes.model_info.memory import read_peak_memory

    backend = find_backend(name)
    peak = read_peak_memory(backend, "cpu")
    assert 10**7 < peak == read_peak_memory(None) < 10**12


@pytest.mark.parametrize(
    ("backend", "error", "asked"),
    [("torch", torch.OutOfMemoryError(CUDA), "CUDA out"), ("mlx", RuntimeError(COMMAND), "METAL")],
)
def test_generation_says_it_too(go, monkeypatch, backend, error, asked):
    import hermes

    go(max_steps=1)
    model = hermes.load(go.folder / "run", backend, "cpu")
    kind = type(model.backend_model)

    def fail(self, *arguments):
        raise error

    monkeypatch.setattr(kind, "decoder", fail)
    said = rf"^out of memory while running little on cpu \(\[?{asked}.*choose a shorter prompt or"
    with pytest.raises(OutOfMemory, match=said) as refused:
        model.generate("the cat", max_tokens=2)
    assert refused.value.exit_code == 71
    monkeypatch.setattr(kind, "__init__", fail)
    said = rf"^out of memory while building little \(\[?{asked}.*choose"
    with pytest.raises(OutOfMemory, match=said):
        hermes.load(go.folder / "run", backend, "cpu")

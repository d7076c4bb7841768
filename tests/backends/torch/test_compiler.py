"""A compiler that fails in either pass is done without; memory and interrupts are passed on."""

import subprocess
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from functorch.compile import make_boxed_func
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounter
from torch._inductor.exc import CppCompileError

from hermes.interface import Options
from hermes_torch import learner as module
from hermes_torch.compiler import compile_function
from tests.backends.support import FLOAT32, make_batch, make_learner, make_spec

COMPILED = Options(device="cpu", compile=True)
INTERRUPTED = subprocess.CalledProcessError(-2, ["g++", "kernel.cpp"])
NO_COMPILER = CppCompileError(["g++"], "no C++ compiler")
FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")


def compile_graph(error, graph, example):
    """A compiler that runs a graph as it is, or fails."""
    if error is not None:
        raise error
    return make_boxed_func(graph.forward)


@pytest.fixture
def compiler(monkeypatch):
    """torch.compile, whose compiler of one pass fails."""

    def plant(forward=None, backward=None):
        torch._dynamo.reset()
        passes = {
            "fw_compiler": partial(compile_graph, forward),
            "bw_compiler": partial(compile_graph, backward),
        }
        made = aot_autograd(**passes)
        monkeypatch.setattr(
            module, "compile_function", lambda f: torch.compile(f, dynamic=False, backend=made)
        )

    yield plant
    torch._dynamo.reset()


def compute(options):
    return make_learner("torch", make_spec(), options=options).grads(make_batch(A=2))


@pytest.mark.parametrize("failing", [{"forward": NO_COMPILER}, {"backward": NO_COMPILER}])
def test_a_failure_in_either_pass_leaves_the_gradients_of_the_plain_loss(compiler, failing):
    compiler(**failing)
    loss, grads = compute(FLOAT32)
    with pytest.warns(UserWarning, match=r"^torch\.compile failed, so the run"):
        compiled_loss, compiled = compute(COMPILED)
    assert compiled_loss == loss
    for name, grad in grads.items():
        np.testing.assert_array_equal(compiled[name], grad)


@pytest.mark.parametrize("side", ["forward", "backward"])
@pytest.mark.parametrize(
    ("error", "kind"),
    [(FULL, RuntimeError), (MemoryError(), Exception), (INTERRUPTED, KeyboardInterrupt)],
)
def test_memory_and_interrupts_are_passed_on(compiler, monkeypatch, side, error, kind):
    compiler(**{side: error})
    learner = make_learner("torch", make_spec(), options=COMPILED)
    monkeypatch.setattr(learner, "_objective", None)  # nothing is tried again without the compiler
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="torch.compile failed")
        with pytest.raises(kind):
            learner.grads(make_batch())


def test_an_error_of_a_backward_pass_that_is_no_compilers_is_passed_on(compiler, monkeypatch):
    compiler()

    def lose(self):
        raise RuntimeError("connection closed by peer")

    monkeypatch.setattr(torch.Tensor, "backward", lose)
    with pytest.raises(RuntimeError, match=r"^connection closed by peer$"):
        make_learner("torch", make_spec(), options=COMPILED).grads(make_batch())


def test_a_run_of_many_shapes_compiles_each(monkeypatch):
    counter = CompileCounter()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=counter))
    double = compile_function(lambda x: 2 * x)
    for size in range(2, 22):
        double(torch.zeros(size))
    assert counter.frame_count == 20


@pytest.mark.filterwarnings("error:torch.compile failed")
def test_a_later_compiler_that_is_interrupted_is_done_without(compiler, monkeypatch):
    """A step is done by then, which is to be saved: no interrupt may throw it away."""
    batch = make_batch()
    compiler()
    learner = make_learner("torch", make_spec(), options=COMPILED)
    _, expected = learner.grads(batch)

    def fail(*arguments):
        raise INTERRUPTED

    monkeypatch.setattr(learner, "_compiled", fail)
    _, found = learner.grads(batch)
    for name, grad in expected.items():
        np.testing.assert_allclose(found[name], grad, rtol=1e-5, atol=1e-7)


@pytest.mark.filterwarnings("error:torch.compile failed")
def test_an_evaluation_whose_compiler_is_interrupted_is_done_without_it(monkeypatch):
    batch = make_batch()
    expected = make_learner("torch", make_spec(), options=FLOAT32).loss(batch)
    learner = make_learner("torch", make_spec(), options=COMPILED)

    def fail(*arguments):
        raise INTERRUPTED

    monkeypatch.setattr(learner._evaluation, "_loss", fail)
    assert learner.loss(batch) == pytest.approx(expected, rel=1e-6)
    assert not learner._evaluation.is_on
